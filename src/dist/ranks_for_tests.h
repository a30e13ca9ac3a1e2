// Runs a piece of a test as the ranks of one job: real processes that talk over loopback.

#pragma once
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <vector>

#include "dist/communicator.h"

namespace keiko::dist {

inline int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  socklen_t size = sizeof(address);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(fd);
  return ntohs(address.sin_port);
}

// Runs `work(communicator)` as `world` processes; each returns its exit code, 0 for success.
template <class Work>
void run_ranks(int64_t world, Work work) {
  const int port = free_port();
  std::vector<pid_t> children;
  for (int64_t rank = 0; rank < world; ++rank) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      int code = 1;
      try {
        LaunchEnvironment launch{rank, world, rank, world, "127.0.0.1", port, false, 0};
        code = work(*make_communicator(launch, 20));
      } catch (const std::exception& e) {
        std::fprintf(stderr, "rank %d: %s\n", int(rank), e.what());
      }
      ::_exit(code);
    }
    children.push_back(pid);
  }
  for (size_t rank = 0; rank < children.size(); ++rank) {
    int status = 0;
    ::waitpid(children[rank], &status, 0);
    // All of it: a signal leaves no exit code.
    EXPECT_EQ(status, 0) << "rank " << rank << " of " << world << ": exit code "
                         << WEXITSTATUS(status) << ", signal " << WTERMSIG(status);
  }
}

}  // namespace keiko::dist
