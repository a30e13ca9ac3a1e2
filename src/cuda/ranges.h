// Names for stretches of a thread's time, for who looks with NVIDIA's tools (nsys, ncu).
//
// NVTX is headers alone: unless a tool started this process, a range costs a look at a pointer. So
// ranges are always given, and nothing has to be switched on.

#pragma once

namespace keiko::cuda {

// Opens a range of the calling thread inside of those that it has open. `name`: UTF-8, copied.
void open_range(const char* name);
// Closes the one that was opened last.
void close_range();

}  // namespace keiko::cuda
