#include "espalier/serve/registry.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/options.h"

namespace espalier::serve {

namespace {

std::string line_of(uint64_t client, const Enrolment& one) {
  return Json{{"client", client},
              {"samples", one.num_samples},
              {"test_samples", one.num_test_samples},
              {"fingerprint", one.fingerprint},
              {"device", one.device}}
             .dump(-1, ' ', false, Json::error_handler_t::replace) +
         "\n";
}

// Opens the file for appending, does something to it, closes it.
template <class Work>
void with(const std::filesystem::path& file, Work&& work) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const bool done = descriptor >= 0 && work(descriptor);
  const int error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (!done)
    throw StorageError(concat("[serve] cannot write ", file.string(), ": ", std::strerror(error)));
}

}  // namespace

Registry::Registry(std::filesystem::path file, uint64_t num_clients)
    : file_(std::move(file)), num_clients_(num_clients) {
  if (!std::filesystem::exists(file_)) return;
  const std::string text = read_text_file(file_);
  size_t begin = 0;
  for (size_t number = 1; begin < text.size(); ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const Json line = Json::parse(text.substr(begin, end - begin), nullptr, false);
    try {
      clients_[line.at("client").get<uint64_t>()] = {
          line.at("samples").get<uint64_t>(), line.at("test_samples").get<uint64_t>(),
          line.at("fingerprint").get<uint64_t>(), line.at("device").get<std::string>()};
    } catch (const std::exception&) {
      fail("serve", file_.string(), ", line ", number, " is damaged; start the run anew");
    }
    begin = end + 1;
  }
  if (begin < text.size()) write_text_file_atomic(file_, text.substr(0, begin));
}

void Registry::enrol(uint64_t client, const Enrolment& enrolment) {
  const std::lock_guard lock(mutex_);
  if (client >= num_clients_)
    fail("serve", "this run has clients 0 to ", num_clients_ - 1, ", and not ", client);
  const auto found = clients_.find(client);
  if (found == clients_.end()) {
    const std::string line = line_of(client, enrolment);
    with(file_, [&](int descriptor) {
      const off_t before = ::lseek(descriptor, 0, SEEK_END);
      if (::write(descriptor, line.data(), line.size()) == static_cast<ssize_t>(line.size()))
        return true;
      // A full disk takes half a line; what follows would be damaged.
      const int error = errno == 0 ? ENOSPC : errno;
      static_cast<void>(::ftruncate(descriptor, before) == 0);
      errno = error;
      return false;
    });
    dirty_ = true;
    clients_.emplace(client, enrolment);
    return;
  }
  const Enrolment& before = found->second;
  if (before.num_samples != enrolment.num_samples ||
      before.num_test_samples != enrolment.num_test_samples) {
    fail("serve", "client ", client, " joined this run with ", before.num_samples, " samples and ",
         before.num_test_samples, " test samples and comes back with ", enrolment.num_samples,
         " and ", enrolment.num_test_samples, "; bring the old ones back or start a new run");
  }
  if (before.fingerprint != enrolment.fingerprint)
    fail("serve", "the samples of client ", client,
         " are not those with which it joined this run, or its own program and espalier take turns "
         "in "
         "training; bring the old ones back or start a new run");
}

void Registry::make_durable() {
  const std::lock_guard lock(mutex_);
  if (!dirty_) return;
  with(file_, [](int descriptor) { return ::fsync(descriptor) == 0; });
  dirty_ = false;
}

bool Registry::contains(uint64_t client) const {
  const std::lock_guard lock(mutex_);
  return clients_.contains(client);
}

uint64_t Registry::num_samples(uint64_t client) const {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  return found == clients_.end() ? 0 : found->second.num_samples;
}

size_t Registry::size() const {
  const std::lock_guard lock(mutex_);
  return clients_.size();
}

std::vector<uint64_t> Registry::clients() const {
  const std::lock_guard lock(mutex_);
  std::vector<uint64_t> out;
  for (const auto& [client, enrolment] : clients_) out.push_back(client);
  return out;
}

std::vector<uint64_t> Registry::missing(size_t most) const {
  const std::lock_guard lock(mutex_);
  std::vector<uint64_t> out;
  for (uint64_t client = 0; client < num_clients_ && out.size() < most; ++client) {
    if (!clients_.contains(client)) out.push_back(client);
  }
  return out;
}

}  // namespace espalier::serve
