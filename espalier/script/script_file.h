#pragma once

#include <string>

// What a file is that was given as a module. Free of libtorch.
namespace espalier::script {

// Throws Error unless the file begins and ends as one that torch.jit.save writes: names what it is
// instead (a state dict, a pickled module, ONNX, safetensors, …) and what to do. Reads the file's
// ends and, of an archive, the list of its members; nothing is unpickled.
void check_script_file(const std::string& file);

}  // namespace espalier::script
