#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/rpc/service.h"
#include "espalier/wire/message.h"

namespace espalier::serve {

// A task as bytes, read in place: u32 size of the head, the head, then for each body its u64 size
// and the body (docs/format.md). Bodies are shared by every task that has them.
class SentTask final : public rpc::Download {
 public:
  explicit SentTask(wire::EncodedMessage message);

  // XXH3-64 of all bytes.
  uint64_t digest() const { return digest_; }
  uint64_t size() const override { return size_; }
  rpc::Pieces pieces(uint64_t offset, uint64_t size) const override;

 private:
  struct Piece {
    uint64_t begin;
    std::span<const uint8_t> data;
  };
  void add(std::span<const uint8_t> data);

  wire::EncodedMessage message_;
  Bytes frame_;
  std::vector<uint64_t> sizes_;
  std::vector<Piece> pieces_;
  uint64_t size_ = 0, digest_ = 0;
};

}  // namespace espalier::serve
