#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "espalier/base/bytes.h"

// Files at the edge of the world. Every function throws Error with the path and the system's
// reason.
namespace espalier {

// The whole file. `max_bytes` guards against reading something absurd.
Bytes read_file(const std::filesystem::path& path, uint64_t max_bytes = uint64_t{1} << 36);
std::string read_text_file(const std::filesystem::path& path);

// As read_file, and gunzips what begins with gzip's magic bytes. The unpacked size is limited by
// `max_bytes`.
Bytes read_file_maybe_gzip(const std::filesystem::path& path,
                           uint64_t max_bytes = uint64_t{1} << 34);
Bytes gunzip(std::span<const uint8_t> data, std::string_view where, uint64_t max_bytes);

// Writes beside the target, syncs, renames, syncs the folder: after a crash the target is the old
// file or the new one, whole. On failure (a full disk, say) the temporary file is removed and the
// target is untouched.
void write_file_atomic(const std::filesystem::path& path, std::span<const uint8_t> data);
void write_text_file_atomic(const std::filesystem::path& path, std::string_view text);

// Creates the folder and its parents; an Error names the folder when it cannot.
void make_folder(const std::filesystem::path& path);

// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::span<const uint8_t> data);

}  // namespace espalier
