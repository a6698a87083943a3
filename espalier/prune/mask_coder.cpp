#include <algorithm>
#include <array>
#include <bit>
#include <type_traits>

#include "espalier/base/error.h"
#include "espalier/base/varint.h"
#include "espalier/prune/binary_coder.h"
#include "espalier/prune/bits.h"
#include "espalier/prune/mask.h"

namespace espalier::prune {
namespace {

enum Kind : uint8_t { kNone = 0, kAll = 1, kRows = 2, kElements = 3 };

// A tensor as a matrix, its first axis by all others; one row when its rank is below 2.
struct Matrix {
  size_t begin = 0, rows = 1, columns = 0;
};

Matrix matrix_of(const ParameterInfo& tensor) {
  Matrix matrix{.begin = static_cast<size_t>(tensor.offset),
                .columns = static_cast<size_t>(tensor.size)};
  if (tensor.shape.size() >= 2 && tensor.size > 0) {
    matrix.rows = static_cast<size_t>(tensor.shape[0]);
    matrix.columns /= matrix.rows;
  }
  return matrix;
}

// Whether rows are kept whole or not at all. Of a matrix of one row or column that says nothing.
bool rows_are_whole(std::span<const uint64_t> words, const Matrix& matrix) {
  if (matrix.rows == 1 || matrix.columns == 1) return false;
  for (size_t row = 0; row < matrix.rows; ++row) {
    const size_t begin = matrix.begin + row * matrix.columns;
    const bool first = (words[begin / 64] >> (begin % 64) & 1) != 0;
    for (size_t at = 0; at < matrix.columns; at += 64) {
      const size_t count = std::min<size_t>(64, matrix.columns - at);
      if (bits_at(words, begin + at, count) != (first ? low_bits(count) : 0)) return false;
    }
  }
  return true;
}

// Eight classes of a share, in 16 bits, that keep apart what is nearly always kept or pruned.
constexpr std::array<uint8_t, 64> kShareClass = [] {
  std::array<uint8_t, 64> classes{};
  for (size_t i = 0; i < 64; ++i) {
    const size_t low = i < 32 ? i : 63 - i;
    const uint8_t side = low < 2 ? 0 : low < 7 ? 1 : low < 16 ? 2 : 3;
    classes[i] = static_cast<uint8_t>(i < 32 ? side : 7 - side);
  }
  return classes;
}();

// Codes a matrix of bits, row by row. A bit's probability is that of its context: the bit before it
// in its row, the one above it, the recent share of ones of the row (the bit before left out, which
// the context names anyway) and of the column. Every context starts from the share of the whole.
// `bits` are read when encoding and written, where they are 1, when decoding.
template <class Coder, class Words>
uint64_t code_bits(Coder& coder, Words words, const Matrix& matrix, double share) {
  constexpr bool kDecodes = std::is_same_v<Coder, BinaryDecoder>;
  std::array<BitModel, 256> models;
  models.fill(BitModel(share, 6));
  constexpr uint32_t kOne = 65535;
  const auto expected = static_cast<uint32_t>(share * kOne);
  // Of each column the share, and in the lowest bit the last one. A single row has none.
  std::vector<uint16_t> column_state;
  const bool has_above = matrix.rows > 1;
  if (has_above) column_state.assign(matrix.columns, static_cast<uint16_t>(expected & ~1u));
  uint64_t ones = 0;
  uint32_t row_share = expected;
  for (size_t row = 0; row < matrix.rows; ++row) {
    uint64_t left = 0;
    if (has_above) row_share = expected;
    const size_t begin = matrix.begin + row * matrix.columns;
    for (size_t at = 0; at < matrix.columns; at += 64) {
      const size_t count = std::min<size_t>(64, matrix.columns - at);
      uint64_t word = 0;
      if constexpr (!kDecodes) word = bits_at(words, begin + at, count);
      uint64_t decoded = 0;
      for (size_t i = 0; i < count; ++i) {
        size_t context = kShareClass[row_share >> 10] * size_t{2} + left;
        uint32_t column = 0;
        if (has_above) {
          column = column_state[at + i];
          context += (kShareClass[column >> 10] * size_t{2} + (column & 1)) * 16;
        }
        const uint64_t bit = coder.code(word >> i & 1, models[context]);
        const uint32_t full = bit != 0 ? kOne : 0;
        if (has_above) {
          const uint32_t next = column + (full >> 4) - (column >> 4);
          column_state[at + i] = static_cast<uint16_t>((next & ~1u) | static_cast<uint32_t>(bit));
        }
        row_share += ((left != 0 ? kOne : 0) >> 5);
        row_share -= row_share >> 5;
        left = bit;
        decoded |= bit << i;
      }
      ones += static_cast<uint64_t>(std::popcount(decoded));
      if constexpr (kDecodes) {
        const size_t shift = (begin + at) % 64, word_at = (begin + at) / 64;
        words[word_at] |= decoded << shift;
        if (shift + count > 64) words[word_at + 1] |= decoded >> (64 - shift);
      }
    }
  }
  return ones;
}

double share_of(uint64_t ones, uint64_t size) {
  return static_cast<double>(ones) / static_cast<double>(size);
}

struct Head {
  Kind kind = kNone;
  uint64_t ones = 0;  // rows or values that are kept
};

}  // namespace

void encode_mask(const Mask& mask, Bytes& out) {
  const auto& tensors = mask.layout()->tensors();
  const std::vector<uint64_t>& words = mask.words();
  std::vector<Head> heads(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    const auto size = static_cast<uint64_t>(tensors[t].size);
    if (size == 0) continue;
    Head& head = heads[t];
    head.ones = mask.kept(t);
    const Matrix matrix = matrix_of(tensors[t]);
    if (head.ones == 0 || head.ones == size) {
      head.kind = head.ones == 0 ? kNone : kAll;
    } else if (rows_are_whole(words, matrix)) {
      head.kind = kRows;
      head.ones /= matrix.columns;
    } else {
      head.kind = kElements;
    }
    out.push_back(head.kind);
    if (head.kind >= kRows) put_varint(out, head.ones);
  }
  BinaryEncoder coder(out);
  for (size_t t = 0; t < tensors.size(); ++t) {
    const Matrix matrix = matrix_of(tensors[t]);
    if (heads[t].kind == kElements) {
      code_bits(coder, std::span<const uint64_t>(words), matrix,
                share_of(heads[t].ones, matrix.rows * matrix.columns));
    } else if (heads[t].kind == kRows) {
      std::vector<uint64_t> rows(num_words(matrix.rows), 0);
      for (size_t row = 0; row < matrix.rows; ++row) {
        const size_t at = matrix.begin + row * matrix.columns;
        rows[row / 64] |= (words[at / 64] >> (at % 64) & 1) << (row % 64);
      }
      code_bits(coder, std::span<const uint64_t>(rows), Matrix{.columns = matrix.rows},
                share_of(heads[t].ones, matrix.rows));
    }
  }
  coder.finish();
}

Mask decode_mask(std::span<const uint8_t> bytes, std::shared_ptr<const ParameterLayout> layout,
                 std::string_view where) {
  const auto& tensors = layout->tensors();
  ByteReader in(bytes, where);
  std::vector<Head> heads(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    const auto size = static_cast<uint64_t>(tensors[t].size);
    if (size == 0) continue;
    Head& head = heads[t];
    const auto kind = in.get<uint8_t>();
    if (kind > kElements)
      fail(where, "unknown kind ", int{kind}, " of a mask of ", tensors[t].name);
    head.kind = static_cast<Kind>(kind);
    if (head.kind < kRows) continue;
    head.ones = get_varint(in);
    const Matrix matrix = matrix_of(tensors[t]);
    if (head.kind == kRows && (matrix.rows == 1 || matrix.columns == 1))
      fail(where, "expected no mask of rows for ", tensors[t].name);
    const uint64_t most = head.kind == kRows ? matrix.rows : size;
    if (head.ones == 0 || head.ones >= most) {
      fail(where, "expected 1 to ", most - 1, " kept of ", tensors[t].name, ", got ", head.ones);
    }
  }
  BinaryDecoder coder(in.take(in.remaining()));
  std::vector<uint64_t> words(num_words(static_cast<size_t>(layout->size())), 0);
  const auto expect_ones = [&](size_t t, uint64_t ones) {
    if (ones != heads[t].ones) {
      fail(where, "expected ", heads[t].ones, " kept of ", tensors[t].name, ", got ", ones,
           "; the mask is damaged");
    }
  };
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (heads[t].kind == kNone) continue;
    const Matrix matrix = matrix_of(tensors[t]);
    const size_t end = matrix.begin + matrix.rows * matrix.columns;
    if (heads[t].kind == kAll) {
      set_bits(words, matrix.begin, end);
    } else if (heads[t].kind == kElements) {
      expect_ones(t, code_bits(coder, std::span(words), matrix,
                               share_of(heads[t].ones, end - matrix.begin)));
      if (rows_are_whole(words, matrix))
        fail(where, "expected a mask of rows for ", tensors[t].name);
    } else {
      std::vector<uint64_t> rows(num_words(matrix.rows), 0);
      expect_ones(t, code_bits(coder, std::span(rows), Matrix{.columns = matrix.rows},
                               share_of(heads[t].ones, matrix.rows)));
      for (size_t row = 0; row < matrix.rows; ++row) {
        const size_t at = matrix.begin + row * matrix.columns;
        if ((rows[row / 64] >> (row % 64) & 1) != 0) set_bits(words, at, at + matrix.columns);
      }
    }
  }
  if (!coder.finish()) fail(where, "the mask's bytes are not those of its bits; they are damaged");
  return Mask(std::move(layout), std::move(words));
}

}  // namespace espalier::prune
