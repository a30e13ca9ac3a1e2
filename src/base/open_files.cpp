#include "base/open_files.h"

namespace keiko {

const ReadableFile& OpenFiles::get(const std::string& path) {
  if (const auto found = places_.find(path); found != places_.end()) {
    files_.splice(files_.begin(), files_, found->second);
    return *files_.front();
  }
  files_.push_front(env_->open(path));
  ++opens_;
  places_[path] = files_.begin();
  if (files_.size() > most_) {
    places_.erase(files_.back()->path());
    files_.pop_back();
  }
  return *files_.front();
}

void OpenFiles::forget(const std::string& path) {
  const auto found = places_.find(path);
  if (found == places_.end()) return;
  files_.erase(found->second);
  places_.erase(found);
}

}  // namespace keiko
