// What this process may use: cores, memory, host name, the kind of processor.

#pragma once
#include <cstdint>
#include <string>

namespace keiko {

// Cores this process may run on (its affinity mask), at least 1.
int usable_cores();
// "AMD EPYC 9V74" or the like; "unknown" when the system does not say.
std::string processor_name();
// True when the processor has AVX512_BF16 or AMX, without which bf16 is slower than fp32 on a CPU.
bool processor_has_fast_bf16();
std::string host_name();
// Resident memory of this process now, bytes.
int64_t resident_bytes();
// Seconds on a clock that only goes forward; its zero is arbitrary.
double monotonic_s();
// "2026-11-22T15:30:00Z"
std::string utc_now();

}  // namespace keiko
