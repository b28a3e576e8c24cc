// Runs signatures of a SavedModel through tensorflow::LoadSavedModel, the entry point
// of TensorFlow Serving, by the tensor names of its SignatureDefs.
//
// Usage: loader <SavedModel> <folder>
//
// The folder holds <signature>.input, a serialized TensorProto each. For every one the
// program writes <signature>.<output>.output.

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace fs = std::filesystem;

namespace {

int Fail(const std::string& what) {
  std::cerr << what << std::endl;
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return Fail("usage: loader <SavedModel> <folder>");
  tensorflow::SavedModelBundle bundle;
  auto status = tensorflow::LoadSavedModel(
      tensorflow::SessionOptions(), tensorflow::RunOptions(), argv[1],
      {"serve"}, &bundle);
  if (!status.ok()) return Fail(std::string(status.message()));

  const fs::path folder(argv[2]);
  for (const auto& [name, signature] : bundle.GetSignatures()) {
    const fs::path given = folder / (name + ".input");
    if (!fs::exists(given)) continue;
    std::ifstream file(given, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    tensorflow::TensorProto proto;
    tensorflow::Tensor input;
    if (!proto.ParseFromString(bytes) || !input.FromProto(proto))
      return Fail(name + ": the input is no tensor");
    if (signature.inputs().size() != 1) return Fail(name + ": not one input");

    std::vector<std::string> keys, tensors;
    for (const auto& [key, info] : signature.outputs()) {
      keys.push_back(key);
      tensors.push_back(info.name());
    }
    std::vector<tensorflow::Tensor> outputs;
    status = bundle.GetSession()->Run(
        {{signature.inputs().begin()->second.name(), input}}, tensors, {}, &outputs);
    if (!status.ok()) return Fail(name + ": " + std::string(status.message()));
    for (size_t i = 0; i < keys.size(); ++i) {
      tensorflow::TensorProto answer;
      // The content of strings is in a form of its own, which Python does not read.
      if (outputs[i].dtype() == tensorflow::DT_STRING)
        outputs[i].AsProtoField(&answer);
      else
        outputs[i].AsProtoTensorContent(&answer);
      std::ofstream out(folder / (name + "." + keys[i] + ".output"), std::ios::binary);
      if (!answer.SerializeToOstream(&out)) return Fail(name + ": not written");
    }
  }
  return 0;
}
