#include "cuda/ranges.h"

#include <gtest/gtest.h>
#include <nvtx3/nvToolsExt.h>

#include <string>
#include <vector>

namespace {

// What a tool is told.
std::vector<std::string>& told() {
  static std::vector<std::string> lines;
  return lines;
}

int push(const char* name) {
  told().push_back(std::string("open ") + name);
  return 0;
}
int pop() {
  told().push_back("close");
  return 0;
}

int start_tool(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks =
      static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned int size = 0;
  if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &size))
    return 0;
  *table[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(&push);
  *table[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(&pop);
  return 1;
}

}  // namespace

namespace keiko::cuda {
namespace {

TEST(Ranges, ReachTheToolThatTheProcessRunsUnder) {
  // Where NVTX looks for a tool that is linked in, at its first use.
  InitializeInjectionNvtx2_fnptr = &start_tool;
  open_range("step 3");
  open_range("forward");
  close_range();
  close_range();
  EXPECT_EQ(told(), (std::vector<std::string>{"open step 3", "open forward", "close", "close"}));
}

}  // namespace
}  // namespace keiko::cuda
