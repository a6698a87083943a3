#include "espalier/serve/sent_task.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "espalier/base/bytes.h"

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
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  for (const Piece& piece : pieces_)
    XXH3_64bits_update(state, piece.data.data(), piece.data.size());
  digest_ = XXH3_64bits_digest(state);
  XXH3_freeState(state);
}

void SentTask::read(uint64_t offset, std::span<uint8_t> out) const {
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                                [](uint64_t at, const Piece& one) { return at < one.begin; });
  for (--piece; !out.empty(); ++piece) {
    const uint64_t skip = offset - piece->begin;
    const size_t count = std::min<size_t>(out.size(), piece->data.size() - skip);
    std::memcpy(out.data(), piece->data.data() + skip, count);
    out = out.subspan(count);
    offset += count;
  }
}

void SentTask::add(std::span<const uint8_t> data) {
  if (data.empty()) return;
  pieces_.push_back({size_, data});
  size_ += data.size();
}

}  // namespace espalier::serve
