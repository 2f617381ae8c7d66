// SPDX-License-Identifier: Apache-2.0
#include "io/archive_json.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/check.h"
#include "io/json.h"

namespace deltacome {
namespace {

using nlohmann::json;

constexpr const char* kBookId = "gauss-1";  // the code books of quant/vector_codes.h

const json& field(const json& object, const char* name, const std::string& where) {
  if (!object.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object", where);
  const auto it = object.find(name);
  if (it == object.end()) fail(ErrorCode::kCorrupt, "{}: field \"{}\" is missing", where, name);
  return *it;
}

std::string text(const json& object, const char* name, const std::string& where) {
  const json& value = field(object, name, where);
  if (!value.is_string()) fail(ErrorCode::kCorrupt, "{}: \"{}\" is not a string", where, name);
  return value.get<std::string>();
}

int64_t to_integer(const json& value, const char* name, const std::string& where) {
  if (value.is_number_unsigned() ? value.get<uint64_t>() > INT64_MAX : !value.is_number_integer()) {
    fail(ErrorCode::kCorrupt, "{}: \"{}\" is not an integer", where, name);
  }
  const auto n = value.get<int64_t>();
  if (n < 0) fail(ErrorCode::kCorrupt, "{}: \"{}\" is negative", where, name);
  return n;
}

int64_t integer(const json& object, const char* name, const std::string& where) {
  return to_integer(field(object, name, where), name, where);
}

double number(const json& object, const char* name, const std::string& where) {
  const json& value = field(object, name, where);
  if (!value.is_number()) fail(ErrorCode::kCorrupt, "{}: \"{}\" is not a number", where, name);
  return value.get<double>();
}

const json& array(const json& object, const char* name, const std::string& where) {
  const json& value = field(object, name, where);
  if (!value.is_array()) fail(ErrorCode::kCorrupt, "{}: \"{}\" is not an array", where, name);
  return value;
}

std::vector<std::string> texts(const json& object, const char* name, const std::string& where) {
  std::vector<std::string> out;
  for (const json& value : array(object, name, where)) {
    if (!value.is_string()) fail(ErrorCode::kCorrupt, "{}: \"{}\" holds no string", where, name);
    out.push_back(value.get<std::string>());
  }
  return out;
}

json to_json(const ArrayFormat& format) {
  if (format.bits == 16) return {{"code", "f16"}, {"bits", 16}};
  return {{"code", "midrise"},
          {"bits", format.bits},
          {"block", {format.scale_rows, format.scale_cols}}};
}

ArrayFormat array_from_json(const json& value, const std::string& where) {
  const std::string code = text(value, "code", where);
  ArrayFormat format;
  const int64_t bits = integer(value, "bits", where);
  format.bits = static_cast<int>(std::min<int64_t>(bits, 1000));
  if (code == "f16") {
    if (bits != 16) fail(ErrorCode::kCorrupt, "{}: code f16 with {} bits", where, bits);
    return format;
  }
  if (code != "midrise") {
    fail(ErrorCode::kUnsupported,
         "{}: code {} is not known to this version; it knows midrise and f16", where, quote(code));
  }
  if (bits == 16) fail(ErrorCode::kCorrupt, "{}: code midrise with 16 bits", where);
  const json& block = array(value, "block", where);
  if (block.size() != 2) fail(ErrorCode::kCorrupt, "{}: \"block\" is not [rows, columns]", where);
  format.scale_rows = to_integer(block[0], "block", where);
  format.scale_cols = to_integer(block[1], "block", where);
  return format;
}

void put_stat(json& out, const char* name, double value) {
  // Four digits tell all that these figures can; bytes count.
  if (value >= 0) out[name] = std::stod(fmt::format("{:.4g}", value));
}

double optional_stat(const json& object, const char* name, const std::string& where) {
  return object.contains(name) ? number(object, name, where) : -1;
}

DType dtype_field(const json& object, const std::string& where) {
  const std::string name = text(object, "dtype", where);
  const auto dtype = dtype_from_name(name);
  if (!dtype) fail(ErrorCode::kUnsupported, "{}: unknown dtype {}", where, quote(name));
  return *dtype;
}

/// An integer of 64 bits that may use its highest bit.
uint64_t unsigned_integer(const json& object, const char* name, const std::string& where) {
  const json& value = field(object, name, where);
  if (!value.is_number_unsigned())
    fail(ErrorCode::kCorrupt, "{}: \"{}\" is not an unsigned integer", where, name);
  return value.get<uint64_t>();
}

VectorFormat vector_from_json(const json& value, const std::string& where) {
  const json& book = field(value, "book", where);
  const std::string id = text(book, "id", where);
  if (id != kBookId) {
    fail(ErrorCode::kUnsupported, "{}: code book {} is not known to this version; it knows {}",
         where, quote(id), kBookId);
  }
  const json& rotation = field(value, "rotation", where);
  return {.dim = static_cast<int>(std::min<int64_t>(integer(book, "dim", where), 1000)),
          .block = integer(rotation, "block", where),
          .seed = unsigned_integer(rotation, "seed", where)};
}

}  // namespace

json to_json(const ArchiveTensor& tensor) {
  const MatrixFormat& f = tensor.format;
  json out{{"name", tensor.name},
           {"codec", codec_name(f.codec)},
           {"shape", f.shape},
           {"sha256", tensor.sha256}};
  if (f.codec == Codec::kRaw || f.added_rows() > 0) out["dtype"] = dtype_name(f.raw_dtype);
  if (f.added_rows() > 0) out["base_rows"] = f.base_rows;
  if (f.codec == Codec::kDense) out["array"] = to_json(f.dense);
  if (f.codec == Codec::kLowRank) {
    out["tiers"] = json::array();
    for (const TierFormat& tier : f.tiers) {
      out["tiers"].push_back({{"rank", tier.rank}, {"v", to_json(tier.v)}, {"u", to_json(tier.u)}});
    }
  }
  if (f.codec == Codec::kVector) {
    out["book"] = {{"id", kBookId}, {"dim", f.vector.dim}};
    out["rotation"] = {{"block", f.vector.block}, {"seed", f.vector.seed}};
  }
  if (f.row_gain || f.col_gain) {
    out["gains"] = json::array();
    if (f.row_gain) out["gains"].push_back("row");
    if (f.col_gain) out["gains"].push_back("column");
  }
  put_stat(out, "relative_error", tensor.stats.relative_error);
  put_stat(out, "energy", tensor.stats.energy);
  put_stat(out, "stable_rank", tensor.stats.stable_rank);
  return out;
}

ArchiveTensor tensor_from_json(const json& value, const std::string& where_file) {
  ArchiveTensor tensor;
  tensor.name = text(value, "name", where_file);
  const std::string where = fmt::format("{}: tensor {}", where_file, quote(tensor.name));
  const std::string codec = text(value, "codec", where);
  MatrixFormat& f = tensor.format;
  for (const json& extent : array(value, "shape", where))
    f.shape.push_back(to_integer(extent, "shape", where));
  tensor.sha256 = text(value, "sha256", where);
  f.base_rows = value.contains("base_rows") ? integer(value, "base_rows", where) : f.n_out();
  if (value.contains("dtype")) f.raw_dtype = dtype_field(value, where);
  if (codec == codec_name(Codec::kRaw)) {
    f.codec = Codec::kRaw;
  } else if (codec == codec_name(Codec::kDense)) {
    f.codec = Codec::kDense;
    f.dense = array_from_json(field(value, "array", where), where);
  } else if (codec == codec_name(Codec::kLowRank)) {
    f.codec = Codec::kLowRank;
    for (const json& tier : array(value, "tiers", where)) {
      f.tiers.push_back({.rank = integer(tier, "rank", where),
                         .v = array_from_json(field(tier, "v", where), where),
                         .u = array_from_json(field(tier, "u", where), where)});
    }
  } else if (codec == codec_name(Codec::kVector)) {
    f.codec = Codec::kVector;
    f.vector = vector_from_json(value, where);
  } else {
    fail(ErrorCode::kUnsupported,
         "{}: codec {} is not known to this version; it knows raw, dense, lowrank, vector", where,
         quote(codec));
  }
  if (value.contains("gains")) {
    for (const std::string& gain : texts(value, "gains", where)) {
      if (gain != "row" && gain != "column") {
        fail(ErrorCode::kUnsupported, "{}: gains of {} are not known to this version", where,
             quote(gain));
      }
      bool& has = gain == "row" ? f.row_gain : f.col_gain;
      if (has) fail(ErrorCode::kCorrupt, "{}: gains of {} are listed twice", where, quote(gain));
      has = true;
    }
  }
  validate(f, tensor.name);
  tensor.stats = {optional_stat(value, "relative_error", where),
                  optional_stat(value, "energy", where),
                  optional_stat(value, "stable_rank", where)};
  return tensor;
}

json to_json(const ArchiveConfig& config) {
  json finetuned{{"name", config.finetuned_name},
                 {"sha256", config.finetuned_hash},
                 {"parameters", config.finetuned_parameters}};
  if (config.finetuned_dtype) finetuned["dtype"] = dtype_name(*config.finetuned_dtype);
  json base{{"name", config.base_name}, {"sha256", config.base_hash}};
  if (!config.base_quantization.empty()) base["quantization"] = config.base_quantization;
  json out{{"format", "deltacome"},
           {"format_version", kArchiveFormatVersion},
           {"created_by", config.created_by},
           {"method", config.method},
           {"architecture", config.architecture},
           {"base", base},
           {"finetuned", finetuned},
           {"projection_weights", config.projection_weights},
           {"requested_bits", config.requested_bits},
           {"calibration",
            {{"files", config.calibration.files},
             {"tokens", config.calibration.tokens},
             {"sequence_length", config.calibration.sequence_length},
             {"seed", config.calibration.seed}}},
           {"files", config.files}};
  if (config.parent)
    out["base"]["delta"] = {{"name", config.parent->name}, {"sha256", config.parent->hash}};
  if (config.held_out) {
    out["held_out"] = {{"file", config.held_out->file},
                       {"tokens", config.held_out->tokens},
                       {"kl", config.held_out->kl},
                       {"top1", config.held_out->top1}};
  }
  out["tensors"] = json::array();
  for (const ArchiveTensor& tensor : config.tensors) out["tensors"].push_back(to_json(tensor));
  return out;
}

ArchiveConfig config_from_json(const json& value, const std::string& where) {
  if (text(value, "format", where) != "deltacome") {
    fail(ErrorCode::kCorrupt, "{}: format {}, expected \"deltacome\"", where,
         quote(text(value, "format", where)));
  }
  const int64_t version = integer(value, "format_version", where);
  if (version != kArchiveFormatVersion) {
    fail(ErrorCode::kUnsupported, "{}: format version {}, this program reads version {}", where,
         version, kArchiveFormatVersion);
  }
  ArchiveConfig config;
  config.created_by = text(value, "created_by", where);
  config.method = text(value, "method", where);
  config.architecture = text(value, "architecture", where);
  const json& base = field(value, "base", where);
  config.base_name = text(base, "name", where);
  config.base_hash = text(base, "sha256", where);
  if (base.contains("delta")) {
    const json& parent = field(base, "delta", where);
    config.parent = {text(parent, "name", where), text(parent, "sha256", where)};
  }
  if (base.contains("quantization")) config.base_quantization = text(base, "quantization", where);
  const json& finetuned = field(value, "finetuned", where);
  config.finetuned_name = text(finetuned, "name", where);
  config.finetuned_hash = text(finetuned, "sha256", where);
  config.finetuned_parameters = integer(finetuned, "parameters", where);
  if (finetuned.contains("dtype")) config.finetuned_dtype = dtype_field(finetuned, where);
  config.projection_weights = integer(value, "projection_weights", where);
  config.requested_bits = number(value, "requested_bits", where);
  const json& calibration = field(value, "calibration", where);
  config.calibration = {.files = texts(calibration, "files", where),
                        .tokens = integer(calibration, "tokens", where),
                        .sequence_length = integer(calibration, "sequence_length", where),
                        .seed = static_cast<uint64_t>(integer(calibration, "seed", where))};
  if (value.contains("held_out")) {
    const json& held_out = field(value, "held_out", where);
    config.held_out = HeldOutFidelity{.file = text(held_out, "file", where),
                                      .tokens = integer(held_out, "tokens", where),
                                      .kl = number(held_out, "kl", where),
                                      .top1 = number(held_out, "top1", where)};
  }
  config.files = texts(value, "files", where);
  std::set<std::string> names;
  for (const json& tensor : array(value, "tensors", where)) {
    config.tensors.push_back(tensor_from_json(tensor, where));
    if (!names.insert(config.tensors.back().name).second) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} is listed twice", where,
           quote(config.tensors.back().name));
    }
  }
  return config;
}

}  // namespace deltacome
