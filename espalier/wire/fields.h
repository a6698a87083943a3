#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/options.h"
#include "espalier/params/parameter_set.h"
#include "espalier/train/step_options.h"

// The parts that heads of messages are made of (docs/format.md). Everything read is bounded before
// anything is allocated for it; the readers throw Error for what is malformed.
namespace espalier::wire {

inline constexpr size_t kMaxName = 1024;  // bytes of a name or text; longer ones are refused

// A flat record: truth values, whole numbers, numbers and texts by name, at most 1024 of them.
// Writing anything else is a bug of ours.
void write_record(const Json& record, ByteWriter& out);
Json read_record(ByteReader& in);

// A record of numbers alone; NaN and infinity pass and are the caller's to judge.
Json scalars_record(const std::map<std::string, double>& scalars);
std::map<std::string, double> read_scalars(ByteReader& in);

// Names, roles and shapes of tensors; at most `max_values` values.
void write_layout(const ParameterLayout& layout, ByteWriter& out);
std::shared_ptr<const ParameterLayout> read_layout(ByteReader& in, int64_t max_values);

// Unit counts by group, each at least 1.
void write_units(const std::vector<int64_t>& units, ByteWriter& out);
std::vector<int64_t> read_units(ByteReader& in);

// Only what differs from training a model plainly.
void write_training(const train::SubmodelTraining& training, ByteWriter& out);
train::SubmodelTraining read_training(ByteReader& in);

// Only what differs from the defaults.
void write_step_options(const train::StepOptions& options, ByteWriter& out);
train::StepOptions read_step_options(ByteReader& in);

}  // namespace espalier::wire
