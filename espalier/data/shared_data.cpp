#include "espalier/data/shared_data.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>

#include "espalier/base/error.h"

namespace espalier::data {

namespace {

// Arrays begin at multiples of this, so that each can be mapped by itself whatever the page size.
constexpr size_t kAlign = size_t{1} << 16;
constexpr size_t kChunk = size_t{1} << 23;

size_t aligned(size_t offset) { return (offset + kAlign - 1) / kAlign * kAlign; }

void write_all(int file, const uint8_t* bytes, size_t size, size_t offset) {
  while (size > 0) {
    const ssize_t written = ::pwrite(file, bytes, size, static_cast<off_t>(offset));
    if (written <= 0) fail("data/shared", "shared memory cannot be written");
    bytes += written;
    size -= static_cast<size_t>(written);
    offset += static_cast<size_t>(written);
  }
}

void read_all(int file, uint8_t* bytes, size_t size, size_t offset) {
  while (size > 0) {
    const ssize_t got = ::pread(file, bytes, size, static_cast<off_t>(offset));
    if (got <= 0) fail("data/shared", "shared memory cannot be read");
    bytes += got;
    size -= static_cast<size_t>(got);
    offset += static_cast<size_t>(got);
  }
}

// Gives the pages that lie within [begin, end) back; what was there is gone.
void drop_pages(uint8_t* begin, uint8_t* end) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page,
             last = reinterpret_cast<uintptr_t>(end) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

// `size` bytes of the file from `offset` on, as long as anybody looks at them.
std::shared_ptr<const void> map(int file, size_t offset, size_t size) {
  void* const at = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file, static_cast<off_t>(offset));
  if (at == MAP_FAILED) fail("data/shared", "shared memory cannot be mapped");
  return {at, [size](const void* there) { ::munmap(const_cast<void*>(there), size); }};
}

template <class T>
Values<T> borrow(int file, size_t offset, size_t count) {
  if (count == 0) return {};
  auto owner = map(file, offset, count * sizeof(T));
  return Values<T>::borrow({static_cast<const T*>(owner.get()), count}, owner);
}

// [offset, count] in the file.
template <class T>
Values<T> values_at(int file, const Json& place) {
  return borrow<T>(file, place.at(0).get<size_t>(), place.at(1).get<size_t>());
}
template <class T>
std::vector<T> copy_at(int file, const Json& place) {
  const Values<T> there = values_at<T>(file, place);
  return {there.begin(), there.end()};
}

// Closes what it holds.
class Descriptor {
 public:
  explicit Descriptor(int file) : file_(file) {}
  ~Descriptor() {
    if (file_ >= 0) ::close(file_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return file_; }

 private:
  int file_;
};

std::shared_ptr<const Dataset> read(int file, const Json& described) {
  Dataset out;
  out.name = described.at("name").get<std::string>();
  out.kind = static_cast<Kind>(described.at("kind").get<int>());
  out.sample_shape = described.at("shape").get<std::vector<int64_t>>();
  out.num_classes = described.at("classes").get<int64_t>();
  out.vocabulary = described.at("vocabulary").get<int64_t>();
  out.mean = described.at("mean").get<std::vector<float>>();
  out.stddev = described.at("stddev").get<std::vector<float>>();
  out.fill = described.at("fill").get<std::vector<float>>();
  out.client_names = described.at("client_names").get<std::vector<std::string>>();
  out.pixels = values_at<uint8_t>(file, described.at("pixels"));
  out.floats = values_at<float>(file, described.at("floats"));
  out.tokens = values_at<int32_t>(file, described.at("tokens"));
  out.labels = copy_at<int32_t>(file, described.at("labels"));
  out.client_of_sample = copy_at<uint32_t>(file, described.at("owners"));
  out.validate();
  return std::make_shared<const Dataset>(std::move(out));
}

}  // namespace

SharedData::SharedData()
    : file_(::memfd_create("espalier-data", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {}

SharedData::~SharedData() {
  if (file_ >= 0) ::close(file_);
}

template <class T>
std::optional<size_t> SharedData::place(Values<T>& values) {
  if (values.borrowed() || values.empty() || file_ < 0) return std::nullopt;
  const size_t offset = aligned(end_), size = values.size() * sizeof(T);
  auto* const from = reinterpret_cast<uint8_t*>(values.data());
  for (size_t begin = 0; begin < size; begin += kChunk) {
    const size_t count = std::min(kChunk, size - begin);
    if (::fallocate(file_, 0, static_cast<off_t>(offset + begin), static_cast<off_t>(count)) != 0) {
      // The memory that it had is its own again.
      read_all(file_, from, begin, offset);
      static_cast<void>(::ftruncate(file_, static_cast<off_t>(end_)));
      return std::nullopt;
    }
    write_all(file_, from + begin, count, offset + begin);
    drop_pages(from + begin, from + begin + count);
  }
  const size_t count = values.size();
  values = borrow<T>(file_, offset, count);
  end_ = offset + size;
  return offset;
}

void SharedData::place(Dataset& dataset) {
  if (const auto offset = place(dataset.pixels))
    placed_[std::as_const(dataset.pixels).data()] = *offset;
  if (const auto offset = place(dataset.floats))
    placed_[std::as_const(dataset.floats).data()] = *offset;
  if (const auto offset = place(dataset.tokens))
    placed_[std::as_const(dataset.tokens).data()] = *offset;
}

template <class T>
Json SharedData::where(const Values<T>& values) const {
  if (values.empty()) return Json::array({0, 0});
  const auto found = placed_.find(values.data());
  return found == placed_.end() ? Json() : Json::array({found->second, values.size()});
}

template <class T>
Json SharedData::place_copy(const std::vector<T>& values) {
  if (values.empty()) return Json::array({0, 0});
  Values<T> copy;
  copy.assign(values.begin(), values.end());
  const auto offset = place(copy);
  return offset ? Json::array({*offset, values.size()}) : Json();
}

// Null when a part of it is not there.
Json SharedData::describe(const Dataset& dataset) {
  if (dataset.fetch) return {};
  Json out = {{"name", dataset.name},
              {"kind", static_cast<int>(dataset.kind)},
              {"shape", dataset.sample_shape},
              {"classes", dataset.num_classes},
              {"vocabulary", dataset.vocabulary},
              {"mean", dataset.mean},
              {"stddev", dataset.stddev},
              {"fill", dataset.fill},
              {"client_names", dataset.client_names},
              {"pixels", where(dataset.pixels)},
              {"floats", where(dataset.floats)},
              {"tokens", where(dataset.tokens)},
              {"labels", place_copy(dataset.labels)},
              {"owners", place_copy(dataset.client_of_sample)}};
  for (const char* array : {"pixels", "floats", "tokens", "labels", "owners"})
    if (out.at(array).is_null()) return {};
  return out;
}

Json SharedData::describe(const DataSource& source) {
  Json train = describe(*source.train), test = describe(*source.test);
  // So that nobody takes another file for it.
  std::vector<uint32_t> token(4);
  std::random_device system;
  for (uint32_t& word : token) word = system();
  Json place = place_copy(token);
  if (train.is_null() || test.is_null() || place.is_null()) return {};
  ::fcntl(file_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);  // nobody changes it
  return {{"process", ::getpid()},  {"file", file_},         {"token", token},
          {"token_at", place},      {"notes", source.notes}, {"train", std::move(train)},
          {"test", std::move(test)}};
}

std::optional<DataSource> SharedData::open(const Json& described) {
  if (described.is_null()) return std::nullopt;
  const std::string path = concat("/proc/", described.at("process").get<int64_t>(), "/fd/",
                                  described.at("file").get<int64_t>());
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status = {};
  const size_t token_end = described.at("token_at").at(0).get<size_t>() + 4 * sizeof(uint32_t);
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
      static_cast<size_t>(status.st_size) < token_end ||
      copy_at<uint32_t>(file.get(), described.at("token_at")) !=
          described.at("token").get<std::vector<uint32_t>>())
    return std::nullopt;
  return DataSource{read(file.get(), described.at("train")), read(file.get(), described.at("test")),
                    described.at("notes").get<std::vector<std::string>>()};
}

}  // namespace espalier::data
