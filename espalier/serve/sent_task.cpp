#include "espalier/serve/sent_task.h"

#include <algorithm>

#include "espalier/base/bytes.h"
#include "espalier/base/digest.h"

namespace espalier::serve {

SentTask::SentTask(wire::EncodedMessage message) : message_(std::move(message)) {
  ByteWriter out(frame_);
  out.put(static_cast<uint32_t>(message_.head.size()));
  out.bytes(message_.head);
  sizes_.reserve(message_.bodies.size());  // pieces point into it
  for (const auto& body : message_.bodies) sizes_.push_back(body->size());
  add({frame_.data(), frame_.size()});
  for (size_t i = 0; i < sizes_.size(); ++i) {
    add({reinterpret_cast<const uint8_t*>(&sizes_[i]), sizeof(uint64_t)});
    add({message_.bodies[i]->data(), message_.bodies[i]->size()});
  }
  Digest digest;
  for (const Piece& piece : pieces_) digest.update(piece.data);
  digest_ = digest.value();
}

rpc::Pieces SentTask::pieces(uint64_t offset, uint64_t size) const {
  rpc::Pieces found;
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                                [](uint64_t at, const Piece& one) { return at < one.begin; });
  for (--piece; size > 0; ++piece) {
    const uint64_t skip = offset - piece->begin;
    const auto part =
        piece->data.subspan(skip, std::min<uint64_t>(size, piece->data.size() - skip));
    found.push_back(part);
    size -= part.size();
    offset += part.size();
  }
  return found;
}

void SentTask::add(std::span<const uint8_t> data) {
  if (data.empty()) return;
  pieces_.push_back({size_, data});
  size_ += data.size();
}

}  // namespace espalier::serve
