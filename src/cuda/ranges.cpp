#include "cuda/ranges.h"

#include <nvtx3/nvToolsExt.h>

namespace keiko::cuda {

void open_range(const char* name) { nvtxRangePushA(name); }
void close_range() { nvtxRangePop(); }

}  // namespace keiko::cuda
