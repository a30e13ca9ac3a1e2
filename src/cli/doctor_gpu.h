// The part of `keiko doctor` about GPUs: what is there for computing, decoding and several ranks,
// and for what is missing, what to do.

#pragma once
#include <nlohmann/json.hpp>

namespace keiko::cli {

// An object of texts: driver, one entry for each GPU and for what its video decoders take, nvdec,
// ffmpeg, torch, nccl. Never throws for what a machine lacks. Opens each GPU for a moment.
nlohmann::ordered_json examine_gpus();

}  // namespace keiko::cli
