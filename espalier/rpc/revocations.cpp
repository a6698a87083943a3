#include "espalier/rpc/revocations.h"

#include <sys/stat.h>

#include "espalier/base/error.h"
#include "espalier/rpc/certificates.h"

namespace espalier::rpc {

Revocations::Revocations(std::filesystem::path index) : index_(std::move(index)) {
  read();
  looked_ = std::chrono::steady_clock::now();
}

Revocations::Stamp Revocations::stamp() const {
  struct stat status {};
  if (::stat(index_.c_str(), &status) != 0) return {};
  return {status.st_ino, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

void Revocations::read() {
  const Stamp before = stamp();
  for (const std::string& serial : revoked_serials(index_)) serials_.insert(serial);
  read_ = before;
}

bool Revocations::contains(const std::string& serial) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (now - looked_ >= std::chrono::seconds(1)) {
    looked_ = now;
    const Stamp now_there = stamp();
    if (!(now_there == Stamp()) && !(now_there == read_)) {
      try {
        read();
      } catch (const std::exception&) {
        // Half-written, perhaps: the next look will tell.
      }
    }
  }
  return serials_.contains(serial);
}

}  // namespace espalier::rpc
