#include "engine/engine.h"
#include "espalier/base/error.h"
#include "espalier/base/heap.h"
#include "espalier/codec/evaluate.h"
#include "espalier/codec/pipeline.h"

namespace espalier::python {

namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;

// One tensor, as `espalier codec` codes it: small ones too.
struct TextCodec {
  std::string text;
  std::shared_ptr<const codec::Codec> codec;

  static std::shared_ptr<const ParameterLayout> layout(int64_t size) {
    return std::make_shared<const ParameterLayout>(
        std::vector<ParameterInfo>{{.name = "x", .shape = {size}, .role = Role::kWeight}});
  }
  static ParameterSet set_of(const Array& x) {
    ParameterSet set(layout(x.size()));
    std::copy_n(x.data(), set.size(), set.values().begin());
    return set;
  }
};

}  // namespace

void add_codecs(py::module_& module) {
  py::class_<TextCodec>(
      module, "Codec",
      "Encodes float32 arrays into the bytes that travel, and back; made by espalier.codec().")
      .def(py::init([](const std::string& stages) {
        configure_heap();  // else the pages of every message are fresh ones
        return TextCodec{stages, codec::make_codec_for_example(stages)};
      }))
      .def(
          "encode",
          [](const TextCodec& self, const Array& x, uint64_t key) {
            // Kept from call to call: fresh pages cost as much as coding.
            thread_local Bytes out;
            out.clear();
            {
              const py::gil_scoped_release free;
              self.codec->encode(*TextCodec::layout(x.size()),
                                 {x.data(), static_cast<size_t>(x.size())}, Key(key), out);
            }
            py::bytes message(reinterpret_cast<const char*>(out.data()), out.size());
            constexpr size_t kMostKept = size_t{16} << 20;
            if (out.capacity() > kMostKept) Bytes().swap(out);
            return message;
          },
          py::arg("array"), py::arg("key") = 0,
          "The message, whose randomness follows from `key`. Values that are not finite raise "
          "Error.")
      .def(
          "decode",
          [](const TextCodec& self, py::buffer message, const std::vector<int64_t>& shape) {
            py::buffer_info info = message.request();
            if (PyBuffer_IsContiguous(info.view(), 'C') == 0) {  // every second byte, say
              message = py::reinterpret_steal<py::buffer>(PyBytes_FromObject(message.ptr()));
              if (!message) throw py::error_already_set();
              info = message.request();
            }
            int64_t size = 1;
            for (const int64_t extent : shape) {
              if (extent < 0 || (extent > 0 && size > (int64_t{1} << 40) / extent))
                fail("codec", "expected a shape of at most 2^40 values");
              size *= extent;
            }
            py::array_t<float> out(shape);
            const std::span<float> values(out.mutable_data(), static_cast<size_t>(size));
            const std::span<const uint8_t> bytes(static_cast<const uint8_t*>(info.ptr),
                                                 static_cast<size_t>(info.size * info.itemsize));
            {
              const py::gil_scoped_release free;
              self.codec->decode(bytes, *TextCodec::layout(size), values);
            }
            return out;
          },
          py::arg("message"), py::arg("shape"),
          "The array again; Error for anything that encode() of this codec did not make.")
      .def(
          "evaluate",
          [](const TextCodec& self, const Array& x, uint64_t trials, uint64_t seed) {
            if (trials < 1) fail("codec", "expected at least one trial");
            codec::Evaluation result;
            {
              const py::gil_scoped_release free;
              result = codec::evaluate(*self.codec, TextCodec::set_of(x), trials, Key(seed));
            }
            py::dict out;
            out["vnmse"] = result.vnmse;
            out["bias2"] = result.bias2;
            out["bits_per_coordinate"] = result.bits_per_coordinate;
            out["encoded_bytes"] = result.encoded_bytes;
            return out;
          },
          py::arg("array"), py::arg("trials") = 10, py::arg("seed") = 1,
          "vnmse (mean squared error over the squared norm), bias2, bits_per_coordinate and "
          "encoded_bytes over so many keys.")
      .def_property_readonly(
          "unbiased", [](const TextCodec& self) { return self.codec->unbiased(); },
          "Whether the mean over keys is the array.")
      .def_property_readonly(
          "lossless", [](const TextCodec& self) { return self.codec->lossless(); },
          "Whether what is decoded is the array, bit for bit.")
      .def("__repr__",
           [](const TextCodec& self) { return "espalier.codec(\"" + self.text + "\")"; });
}

}  // namespace espalier::python
