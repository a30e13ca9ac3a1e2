// torch's meta device as an instrument: tests of what a model computes on, without a GPU.
//
// A tensor there has shapes and no values. Operations check shapes, and reading a value throws:
// what runs through never waits for a device. A watch beside it looks at every operation, those of
// backward passes too, for what a GPU would not forgive.

#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include <string>
#include <vector>

namespace keiko::model {

// While it lives, operations of this thread are looked at; one at a time. Linked with it are the
// shape rules that torch has in Python alone.
class MetaWatch {
 public:
  MetaWatch();
  ~MetaWatch();
  MetaWatch(const MetaWatch&) = delete;
  MetaWatch& operator=(const MetaWatch&) = delete;

  // What a GPU would refuse or wait for, each once, in words: tensors of both devices in one
  // operation, a copy to the device that blocks, a value or a shape that depends on values.
  const std::vector<std::string>& faults() const { return faults_; }
  // Copies from the CPU to the device.
  int uploads() const { return uploads_; }
  // Shapes of what was copied to the CPU. Such a copy ends in c10::NotImplementedError: there is
  // nothing to copy.
  const std::vector<std::vector<int64_t>>& downloads() const { return downloads_; }
  // Operations that had a tensor on the device.
  int operations() const { return operations_; }

 private:
  static std::unique_ptr<at::ObserverContext> look(const at::RecordFunction& function);
  void look_at(const std::string& name, c10::ArrayRef<const c10::IValue> inputs);
  void note(const std::string& fault);

  at::CallbackHandle handle_;
  std::vector<std::string> faults_;
  int uploads_ = 0, operations_ = 0;
  std::vector<std::vector<int64_t>> downloads_;
};

}  // namespace keiko::model
