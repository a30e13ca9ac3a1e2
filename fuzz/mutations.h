// Ways to damage a video file, as a fixed function of a seed.
//
// Some are what disks and networks do (flips, lost or swapped blocks, torn tails), some what an
// attacker does: sizes, counts and offsets in headers set to values that overflow.

#pragma once
#include <cstdint>
#include <string>

namespace keiko::fuzz {

// `whole` damaged one to four times; `other` is a second video that some mutations splice in.
// Equal arguments give equal bytes on every machine. `what`, when not null, gets their names.
std::string mutate(const std::string& whole, const std::string& other, uint64_t seed,
                   std::string* what = nullptr);

}  // namespace keiko::fuzz
