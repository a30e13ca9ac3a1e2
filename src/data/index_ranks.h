// How the ranks of one `keiko index` meet: through small files beside the catalogue, so that no
// rank needs a network and any of them may be killed and started again.
//
// Rank 0 writes a token when it starts. Every other rank, when its share is in its journal,
// publishes a marker with that token, and waits until rank 0 has removed it. A marker with another
// token is of an earlier run and does not count.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::data {

// A file that a rank could not index, as it was then.
struct SkippedFile {
  std::string path;  // absolute
  int64_t size = 0, mtime_ns = 0;
  std::string reason;
};

// What a rank did with its share.
struct ShareReport {
  int64_t scanned = 0;  // videos
  std::vector<SkippedFile> skipped;
};

class IndexRanks {
 public:
  // `out`: the catalogue. Rank 0 writes the token.
  IndexRanks(Env* env, const std::string& out, int64_t rank, int64_t world_size, double timeout_s);

  // This rank's journal.
  std::string journal() const { return journal_of(rank_); }
  // All journals that lie beside the catalogue, of whatever run and world size.
  std::vector<std::string> all_journals() const;

  // Ranks other than 0: publishes the marker and returns once rank 0 is done. `error`: why this
  // rank gave up, or "". Throws Error(kIo) when nobody makes progress for timeout_s.
  void finish_share(const ShareReport& report, const std::string& error);
  // Rank 0: waits for all markers and returns the sum of the others' reports. Throws Error(kIo)
  // naming the ranks that make no progress for timeout_s, or a rank that gave up.
  ShareReport wait_for_shares();
  // Rank 0, after the catalogue is published, or when there is nothing to go on with: removes
  // journals, markers, and the token last.
  void clean_up();

 private:
  std::string journal_of(int64_t rank) const;
  std::string marker_of(int64_t rank) const { return journal_of(rank) + ".done"; }
  std::string read_token() const;
  int64_t bytes_written() const;

  Env* env_;
  std::string out_;
  int64_t rank_, world_size_;
  double timeout_s_;
  std::string token_;
};

}  // namespace keiko::data
