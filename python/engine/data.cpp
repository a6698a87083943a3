#include "engine/data.h"

#include "espalier/base/error.h"
#include "espalier/data/partition.h"
#include "espalier/data/tensor_dataset.h"

namespace espalier::python {

namespace {

// Keeps an array alive from threads that do not hold the interpreter's lock.
std::shared_ptr<const void> keep(const py::array& array) {
  return {new py::array(array), [](const void* kept) {
            const py::gil_scoped_acquire lock;
            delete static_cast<const py::array*>(kept);
          }};
}

template <class T>
data::Values<T> borrowed(const py::array& array) {
  return data::Values<T>::borrow(
      {static_cast<const T*>(array.data()), static_cast<size_t>(array.size())}, keep(array));
}

// Types are compared by what they are: an array that was pickled has a dtype object of its own.
template <class T>
bool is(const py::array& array) {
  return py::isinstance<py::array_t<T>>(array);
}

// `inputs` is contiguous and of one of three types: uint8 images (N, H, W, C), float32, int32
// tokens (N, L).
std::shared_ptr<data::Dataset> make_dataset(const std::string& name, const py::array& inputs,
                                            const std::vector<int32_t>& labels, int64_t classes,
                                            int64_t vocabulary) {
  auto out = std::make_shared<data::Dataset>();
  out->name = name;
  out->labels = labels;
  out->num_classes = classes;
  const std::vector<int64_t> shape(inputs.shape(), inputs.shape() + inputs.ndim());
  if (!(inputs.flags() & py::array::c_style)) fail("python", "expected a contiguous array");
  if (is<uint8_t>(inputs)) {
    if (shape.size() != 4) fail("python", "expected images of shape (N, H, W, C)");
    out->kind = data::Kind::kImage;
    out->sample_shape = {shape[3], shape[1], shape[2]};
    out->pixels = borrowed<uint8_t>(inputs);
  } else if (is<float>(inputs)) {
    out->kind = data::Kind::kFloat;
    out->sample_shape.assign(shape.begin() + 1, shape.end());
    out->floats = borrowed<float>(inputs);
  } else if (is<int32_t>(inputs)) {
    if (shape.size() != 2) fail("python", "expected tokens of shape (N, length)");
    out->kind = data::Kind::kTokens;
    out->sample_shape = {shape[1]};
    const auto* tokens = static_cast<const int32_t*>(inputs.data());
    out->tokens.assign(tokens, tokens + inputs.size());
    out->vocabulary = vocabulary;
  } else {
    fail("python", "expected uint8, float32 or int32 inputs");
  }
  return out;
}

}  // namespace

void add_data(py::module_& module) {
  py::class_<HandedData, std::shared_ptr<HandedData>>(module, "Data")
      .def(py::init([](const std::string& name, const py::array& inputs,
                       const std::vector<int32_t>& labels, const py::array& test_inputs,
                       const std::vector<int32_t>& test_labels, int64_t classes, int64_t vocabulary,
                       const std::vector<uint32_t>& client_of_sample,
                       const std::vector<std::string>& client_names, const std::vector<float>& mean,
                       const std::vector<float>& stddev) {
             auto out = std::make_shared<HandedData>();
             data::Dataset& train = out->data.train =
                 *make_dataset(name, inputs, labels, classes, vocabulary);
             data::Dataset& test = out->data.test =
                 *make_dataset(name, test_inputs, test_labels, classes, vocabulary);
             train.client_of_sample = client_of_sample;
             train.client_names = client_names;
             if (train.kind == data::Kind::kImage) {
               if (train.sample_shape != test.sample_shape)
                 fail("python", "training and test images differ in shape");
               if (mean.empty()) {
                 data::normalize_by_training_pixels(train, test);
               } else {
                 train.mean = test.mean = mean;
                 train.stddev = test.stddev = stddev;
               }
             }
             train.validate();
             test.validate();
             return out;
           }),
           py::arg("name"), py::arg("inputs"), py::arg("labels"), py::arg("test_inputs"),
           py::arg("test_labels"), py::arg("classes"), py::arg("vocabulary"),
           py::arg("client_of_sample"), py::arg("client_names"), py::arg("mean"), py::arg("stddev"))
      .def_property_readonly("mean", [](const HandedData& self) { return self.data.train.mean; })
      .def_property_readonly("stddev",
                             [](const HandedData& self) { return self.data.train.stddev; })
      .def(
          "partition",
          [](const HandedData& self, const std::string& options, uint64_t seed) {
            const Json tree = json_of(options);
            data::PartitionOptions read;
            read_options({&tree, "data.partition"}, {}, read);
            refuse_idle("data.partition", idle_options(read));
            const auto partition =
                data::make_partition(read, self.data.train, Key(seed).child(Purpose::kPartition));
            std::vector<py::array_t<uint32_t>> clients;
            std::vector<uint32_t> buffer;
            for (uint64_t client = 0; client < partition->num_clients(); ++client) {
              partition->samples(client, buffer);
              clients.emplace_back(static_cast<py::ssize_t>(buffer.size()), buffer.data());
            }
            return clients;
          },
          py::arg("options"), py::arg("seed"),
          "The samples of each client, as `[data.partition]` divides them.");
}

}  // namespace espalier::python
