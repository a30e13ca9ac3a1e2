// Collectives between real processes on this machine.

#include <ATen/ATen.h>
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "dist/communicator.h"
#include "dist/gradient_reducer.h"

namespace keiko::dist {
namespace {

int free_port() {
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

// Runs `work` as `world` processes; each returns its exit code, 0 for success.
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
    EXPECT_EQ(WEXITSTATUS(status), 0) << "rank " << rank << " of " << world;
  }
}

TEST(Communicator, CollectivesGiveWhatTheirNamesSay) {
  for (int64_t world : {1, 2, 3})
    run_ranks(world, [world](Communicator& c) {
      for (auto type : {at::kFloat, at::kDouble, at::kLong}) {
        at::Tensor x = at::full({5}, c.rank() + 1, type);
        c.all_reduce(x)->wait();
        if (!x.eq(world * (world + 1) / 2).all().item<bool>()) return 2;
      }
      const at::Tensor gathered = c.all_gather(at::full({2, 3}, double(c.rank()), at::kDouble));
      if (gathered.sizes() != at::IntArrayRef({world, 2, 3})) return 3;
      for (int64_t r = 0; r < world; ++r)
        if (!gathered[r].eq(r).all().item<bool>()) return 4;
      if (c.broadcast_text(c.rank() == 0 ? "hello ranks" : "nothing") != "hello ranks") return 5;
      if (c.broadcast_text("") != "") return 6;
      c.barrier();
      return 0;
    });
}

TEST(Reducer, SumsEveryGradientBuffer) {
  for (int64_t world : {1, 2, 3})
    run_ranks(world, [world](Communicator& c) {
      model::Parameters p(at::kFloat);
      const at::Tensor a = p.declare({"a.weight", {4, 2}, 0, true});
      const at::Tensor b = p.declare({"b.bias", {3}, 1, false});
      p.allocate(1);
      a.grad().fill_(double(c.rank() + 1));
      b.grad().fill_(10);
      reduce_gradients(c, p);
      const bool right = a.grad().eq(double(world * (world + 1) / 2)).all().item<bool>() &&
                         b.grad().eq(double(10 * world)).all().item<bool>();
      return right ? 0 : 2;
    });
}

}  // namespace
}  // namespace keiko::dist
