#include "train/agreement.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "base/json_text.h"
#include "base/machine.h"

namespace keiko::train {
namespace {

// Keys that may differ from rank to rank: how many threads a machine has to give.
bool is_own_business(const std::string& key) {
  return key == "train.threads" || key == "loader.threads" || key == "loader.prefetch";
}

// "steps = 10 on rank 0, 20 here" from the first line that differs.
std::string first_difference(const std::string& a, const std::string& b) {
  const auto line_at = [](const std::string& text, size_t at) {
    const size_t begin = text.rfind('\n', at) + 1;  // npos + 1 is 0
    return text.substr(begin, text.find('\n', at) - begin);
  };
  size_t at = 0;
  while (at < a.size() && at < b.size() && a[at] == b[at]) ++at;
  if (at > 0) --at;  // a line may end where the other goes on
  if (a[at] == '\n') ++at;
  return fmt::format("{} | {}", line_at(a, at), line_at(b, at));
}

}  // namespace

RankIdentity identify_rank(const Recipe& recipe, uint64_t data_hash, uint64_t eval_data_hash,
                           const std::string& device, const std::string& precision) {
  RankIdentity identity;
  identity.host = host_name();
  identity.build =
      fmt::format("keiko {} (commit {}), torch {}", KEIKO_VERSION, KEIKO_COMMIT, TORCH_VERSION);
  for (const config::Entry& entry : config::list_entries(recipe))
    if (!is_own_business(entry.path))
      identity.recipe += fmt::format("{}: {}\n", entry.path, entry.value);
  identity.data = hex64(data_hash) + " " + hex64(eval_data_hash);
  identity.computes = device + ", " + precision;
  return identity;
}

std::vector<std::string> check_ranks_agree(const RankIdentity& mine,
                                           dist::Communicator& communicator) {
  std::vector<std::string> hosts;
  std::vector<RankIdentity> all;
  for (const std::string& text :
       communicator.gather_texts(json_text(nlohmann::ordered_json{{"host", mine.host},
                                                                  {"build", mine.build},
                                                                  {"recipe", mine.recipe},
                                                                  {"data", mine.data},
                                                                  {"computes", mine.computes}}))) {
    const auto j = nlohmann::json::parse(text);
    all.push_back({j["host"], j["build"], j["recipe"], j["data"], j["computes"]});
    hosts.push_back(all.back().host);
  }
  for (size_t r = 1; r < all.size(); ++r) {
    const auto refuse = [&](const char* what, const std::string& values, const char* todo) {
      fail(ErrorKind::kUsage, "rank {} ({}) has another {} than rank 0 ({}): {}; {}", r, hosts[r],
           what, hosts[0], values, todo);
    };
    if (all[r].build != all[0].build)
      refuse("build", all[0].build + " | " + all[r].build, "install the same one everywhere");
    if (all[r].recipe != all[0].recipe)
      refuse("recipe", first_difference(all[0].recipe, all[r].recipe),
             "start all ranks with the same recipe and overrides");
    if (all[r].computes != all[0].computes)
      refuse("device or precision", all[0].computes + " | " + all[r].computes,
             "see `keiko doctor` on both, or set train.device and precision");
    if (all[r].data != all[0].data)
      refuse("data set", "hash " + all[0].data + " | " + all[r].data,
             "give all ranks the same catalogues");
  }
  return hosts;
}

namespace {

uint64_t hash_of(const at::Tensor& values) {
  const at::Tensor here = values.cpu();  // itself where it is there already
  return xxh3({static_cast<const uint8_t*>(here.const_data_ptr()), size_t(here.nbytes())});
}

// Throws Diverged, on every rank, when ranks r, r + group_size, ... have not all the same hashes.
void compare(const model::Parameters& parameters, const std::vector<int64_t>& hashes,
             int64_t group_size, int64_t step, dist::Communicator& communicator) {
  const at::Tensor all = communicator.all_gather(at::tensor(hashes));
  for (size_t i = 0; i < hashes.size(); ++i)
    for (int64_t first = 0; first < group_size; ++first) {
      std::map<int64_t, std::vector<int64_t>> ranks_by_hash;
      int64_t count = 0;
      for (int64_t r = first; r < communicator.world_size(); r += group_size, ++count)
        ranks_by_hash[all[r][int64_t(i)].item<int64_t>()].push_back(r);
      if (ranks_by_hash.size() == 1) continue;
      size_t most = 0;
      int64_t right = 0;
      for (const auto& [hash, ranks] : ranks_by_hash)
        if (ranks.size() > most) most = ranks.size(), right = hash;
      std::vector<int64_t> wrong;
      for (const auto& [hash, ranks] : ranks_by_hash)
        if (hash != right) wrong.insert(wrong.end(), ranks.begin(), ranks.end());
      std::sort(wrong.begin(), wrong.end());
      throw Diverged(fmt::format(
          "step {}: the weights of the ranks differ in {}: {}. A machine computes or remembers "
          "wrongly; look at its memory errors",
          step, parameters.buffers()[i].name,
          2 * most > size_t(count)
              ? fmt::format("rank {} has others than most", fmt::join(wrong, ", "))
              : "no majority tells which is right"));
    }
}

}  // namespace

std::optional<uint64_t> check_replicas(const model::Parameters& parameters, int64_t step,
                                       dist::Communicator& communicator) {
  if (communicator.world_size() == 1) return std::nullopt;
  std::vector<int64_t> hashes;
  std::string digest;  // as Parameters::hash() makes it
  for (const model::FlatBuffer& buffer : parameters.buffers()) {
    const uint64_t hash = hash_of(buffer.value);
    hashes.push_back(int64_t(hash));
    digest += buffer.name + hex64(hash);
  }
  compare(parameters, hashes, 1, step, communicator);
  return xxh3(std::string_view(digest));
}

void check_parts(const model::Parameters& parameters, const std::vector<model::OwnedSlice>& parts,
                 int64_t group_size, int64_t step, dist::Communicator& communicator) {
  std::vector<int64_t> hashes;
  for (const model::OwnedSlice& part : parts) hashes.push_back(int64_t(hash_of(part.value)));
  compare(parameters, hashes, group_size, step, communicator);
}

}  // namespace keiko::train
