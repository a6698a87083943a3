#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "espalier/codec/codec.h"

// `espalier codec encode|decode`: messages of docs/format.md from files of tensors and back.
namespace espalier::apps {

// Adds both to `espalier codec`.
void add_codec_stream_commands(CLI::App& codec, const std::string& stages_help);

// The codec of these stages for a file's tensors: as in a run those of a model are coded by their
// roles, but a single tensor always is. A rule is "PATTERN|…=STAGES" for what matches
// (codec/rules.h); of several the first decides.
std::unique_ptr<codec::Codec> make_stream_codec(const std::string& stages,
                                                const std::vector<std::string>& rules,
                                                const ParameterLayout& layout);

}  // namespace espalier::apps
