#include "espalier/rpc/revocations.h"

#include "espalier/base/error.h"
#include "espalier/rpc/certificates.h"

namespace espalier::rpc {

Revocations::Revocations(std::filesystem::path index) : index_(std::move(index)) {
  read();
  looked_ = std::chrono::steady_clock::now();
}

void Revocations::read() {
  const auto written = std::filesystem::last_write_time(index_);
  for (const std::string& serial : revoked_serials(index_)) serials_.insert(serial);
  written_ = written;
}

bool Revocations::contains(const std::string& serial) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (now - looked_ >= std::chrono::seconds(1)) {
    looked_ = now;
    std::error_code error;
    const auto written = std::filesystem::last_write_time(index_, error);
    if (!error && written != written_) {
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
