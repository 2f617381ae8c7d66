// SPDX-License-Identifier: Apache-2.0
#include "io/archive.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "deltacome/archive.h"
#include "deltacome/error.h"
#include "io/manifest.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;

CodedTensor coded(const std::string& name, const MatrixFormat& format, int fill) {
  CodedTensor tensor{name, format, {}, {.relative_error = 0.125, .energy = 0.5, .stable_rank = 3}};
  tensor.blob.assign(static_cast<size_t>(layout_of(format).total_bytes),
                     static_cast<std::byte>(fill));
  return tensor;
}

/// A small archive with one tensor of each codec.
class ArchiveTest : public testing::Test {
 protected:
  void SetUp() override {
    const fs::path companions = directory_.path() / "finetuned";
    fs::create_directory(companions);
    write_file_atomically(companions / "config.json", "{}");
    write_file_atomically(companions / "tokenizer.json", "{\"model\": 1}");
    write_file_atomically(companions / "unrelated.txt", "not kept");
    ArchiveConfig config;
    config.created_by = "test";
    config.method = "come";
    config.architecture = "LlamaForCausalLM";
    config.base_name = "base";
    config.base_hash = std::string(64, 'a');
    config.finetuned_name = "fine";
    config.finetuned_hash = std::string(64, 'b');
    config.finetuned_parameters = 1000;
    config.finetuned_dtype = DType::kF16;
    config.projection_weights = (24 + 8) * 16;
    config.requested_bits = 3.5;
    config.calibration = {
        .files = {"text.jsonl"}, .tokens = 512, .sequence_length = 512, .seed = 7};
    config.held_out =
        HeldOutFidelity{.file = "held.jsonl", .tokens = 100, .kl = 0.25, .top1 = 0.75};
    ArchiveWriter writer(config);
    for (const CodedTensor& tensor : tensors_) writer.add(tensor);
    writer.write(archive_, companions);
  }

  /// What opening it says after a change of delta_config.json that the manifest knows of.
  Error rewrite(const std::string& from, const std::string& to) const {
    const fs::path config = archive_ / "delta_config.json";
    std::string text = read_text_file(config);
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    if (at != std::string::npos) text.replace(at, from.size(), to);
    write_file_atomically(config, text);
    Manifest manifest = parse_manifest(read_text_file(archive_ / kManifestName), "m");
    manifest["delta_config.json"] = sha256_hex(std::as_bytes(std::span(text)));
    write_file_atomically(archive_ / kManifestName, format_manifest(manifest));
    try {
      Archive::open(archive_);
    } catch (const Error& error) {
      return error;
    }
    return {ErrorCode::kInternal, "no error"};
  }

  const test::TempDir directory_;
  const fs::path archive_ = directory_.path() / "archive";
  const std::vector<CodedTensor> tensors_{
      coded("model.embed_tokens.weight",
            {.codec = Codec::kDense,
             .shape = {10, 16},
             .raw_dtype = DType::kF16,
             .base_rows = 8,
             .dense = {4, 1, 128},
             .tiers = {}},
            1),
      coded("model.layers.0.self_attn.q_proj.weight",
            {.codec = Codec::kLowRank,
             .shape = {24, 16},
             .base_rows = 24,
             .dense = {},
             .tiers = {{1, {8, 1, 128}, {8, 1, 128}},
                       {2, {3, 1, 8}, {2, 2, 1}},
                       {1, {16, 1, 0}, {16, 1, 0}}},
             .row_gain = true,
             .col_gain = true},
            2),
      coded("model.layers.0.self_attn.k_proj.weight",
            {.codec = Codec::kVector,
             .shape = {8, 16},
             .base_rows = 8,
             .dense = {},
             .tiers = {},
             .vector = {.dim = 12, .block = 16, .seed = 0xffff'ffff'ffff'fff0},
             .col_gain = true},
            4),
      coded("model.norm.weight",
            {.codec = Codec::kRaw,
             .shape = {16},
             .raw_dtype = DType::kF32,
             .base_rows = 16,
             .dense = {},
             .tiers = {}},
            3)};
};

TEST_F(ArchiveTest, GivesBackEveryFormatAndByte) {
  const Archive archive = Archive::open(archive_);
  EXPECT_EQ(archive.config().finetuned_dtype, DType::kF16);
  ASSERT_EQ(archive.config().tensors.size(), tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const ArchiveTensor& got = archive.config().tensors[i];
    EXPECT_EQ(got.name, tensors_[i].name);
    EXPECT_EQ(got.format.codec, tensors_[i].format.codec);
    EXPECT_EQ(got.format.shape, tensors_[i].format.shape);
    EXPECT_EQ(got.format.tiers, tensors_[i].format.tiers);
    EXPECT_EQ(got.format.dense, tensors_[i].format.dense);
    EXPECT_EQ(got.format.base_rows, tensors_[i].format.base_rows);
    EXPECT_EQ(got.format.vector, tensors_[i].format.vector);
    EXPECT_EQ(got.format.row_gain, tensors_[i].format.row_gain);
    EXPECT_EQ(got.format.col_gain, tensors_[i].format.col_gain);
    EXPECT_EQ(layout_of(got.format).total_bytes, layout_of(tensors_[i].format).total_bytes);
    const HostTensor blob = archive.blob(got);
    EXPECT_TRUE(std::equal(blob.bytes.begin(), blob.bytes.end(), tensors_[i].blob.begin(),
                           tensors_[i].blob.end()));
    EXPECT_EQ(got.stats.relative_error, 0.125);
  }
  EXPECT_EQ(archive.config().calibration.seed, 7u);
  EXPECT_EQ(archive.config().files, (std::vector<std::string>{"config.json", "tokenizer.json"}));
  EXPECT_TRUE(archive.verify().empty());
}

TEST_F(ArchiveTest, InspectAddsUpToTheBytesOnDisk) {
  const ArchiveInfo info = inspect_archive(archive_);
  int64_t on_disk = 0;
  for (const auto& entry : fs::directory_iterator(archive_))
    on_disk += static_cast<int64_t>(entry.file_size());
  EXPECT_EQ(info.all_in_bytes + info.tokenizer_bytes, on_disk);
  EXPECT_EQ(info.projection_bytes,
            static_cast<int64_t>(tensors_[1].blob.size() + tensors_[2].blob.size()));
  EXPECT_EQ(info.embedding_bytes, static_cast<int64_t>(tensors_[0].blob.size()));
  EXPECT_EQ(info.other_bytes, 64);
  EXPECT_DOUBLE_EQ(info.bits_per_weight,
                   8.0 * static_cast<double>(info.projection_bytes) / ((24 + 8) * 16));
  EXPECT_EQ(info.finetuned_bytes, 2000);
  ASSERT_TRUE(info.held_out.has_value());
  EXPECT_EQ(info.held_out->kl, 0.25);
}

TEST_F(ArchiveTest, InspectTellsDimensionsAndGains) {
  const ArchiveInfo info = inspect_archive(archive_);
  ASSERT_EQ(info.tensors.size(), 4u);
  const std::vector<int> dims = {0, 0, 12, 0};
  const std::vector<bool> rows = {false, true, false, false}, columns = {false, true, true, false};
  for (size_t i = 0; i < dims.size(); ++i) {
    EXPECT_EQ(info.tensors[i].vector_dim, dims[i]);
    EXPECT_EQ(info.tensors[i].row_gain, rows[i]);
    EXPECT_EQ(info.tensors[i].column_gain, columns[i]);
  }
  EXPECT_EQ(info.tensors[2].codec, "vector");
}

TEST_F(ArchiveTest, EveryFlippedBitAndTruncatedByteIsDetected) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(archive_)) files.push_back(entry.path());
  for (const fs::path& file : files) {
    const std::string original = read_text_file(file);
    for (size_t i = 0; i < original.size(); i += 1 + original.size() / 400) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string damaged = original;
        damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
        write_file_atomically(file, damaged);
        EXPECT_THROW(verify_archive(archive_), Error) << file << " byte " << i << " bit " << bit;
      }
    }
    for (const size_t kept : {original.size() - 1, original.size() / 2, size_t{0}}) {
      write_file_atomically(file, original.substr(0, kept));
      EXPECT_THROW(verify_archive(archive_), Error) << file << " cut to " << kept;
    }
    write_file_atomically(file, original);
    EXPECT_NO_THROW(verify_archive(archive_));
  }
}

TEST_F(ArchiveTest, ReadingATensorDetectsItsOwnDamage) {
  const fs::path file = archive_ / "delta.safetensors";
  std::string bytes = read_text_file(file);
  bytes[bytes.size() - 3] ^= 1;
  write_file_atomically(file, bytes);
  const Archive archive = Archive::open(archive_);
  int refused = 0;
  for (const ArchiveTensor& tensor : archive.config().tensors) {
    try {
      archive.blob(tensor);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
      EXPECT_NE(std::string(error.what()).find(tensor.name), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_EQ(refused, 1);
}

TEST_F(ArchiveTest, ForeignFilesAreNotedNotRefused) {
  write_file_atomically(archive_ / "README.md", "a model card");
  const std::vector<std::string> notes = verify_archive(archive_);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("README.md"), std::string::npos);
}

TEST_F(ArchiveTest, NewerVersionsAndUnknownCodecsAreUnsupportedByName) {
  Error error = rewrite("\"format_version\":1", "\"format_version\":2");
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_NE(std::string(error.what()).find("format version 2, this program reads version 1"),
            std::string::npos)
      << error.what();
  rewrite("\"format_version\":2", "\"format_version\":1");
  error = rewrite("\"codec\":\"lowrank\"", "\"codec\":\"trellis\"");
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_NE(
      std::string(error.what())
          .find("codec \"trellis\" is not known to this version; it knows raw, dense, lowrank, "
                "vector"),
      std::string::npos)
      << error.what();
  rewrite("\"codec\":\"trellis\"", "\"codec\":\"lowrank\"");
  error = rewrite("\"rank\":2", "\"rank\":200");
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
}

TEST_F(ArchiveTest, FaultsOfVectorCodesAndGainsAreNamed) {
  struct Fault {
    std::string from, to;
    ErrorCode code;
    std::string says;
  };
  const std::string seed = "\"seed\":18446744073709551600";
  const std::string rotation = "\"rotation\":{\"block\":16," + seed + "}";
  const std::string book = "\"book\":{\"dim\":12,\"id\":\"gauss-1\"}";
  const auto gains = [](const std::string& list) { return "\"gains\":[" + list + "]"; };
  const std::string both = gains("\"row\",\"column\"");
  using enum ErrorCode;
  const std::vector<Fault> faults = {
      {"gauss-1", "gauss-2", kUnsupported, "code book \"gauss-2\" is not known"},
      {"\"dim\":12", "\"dim\":10", kUnsupported, "no code book of dimension 10"},
      {"\"dim\":12", "\"dim\":4294967308", kUnsupported, "no code book of dimension"},
      {"\"dim\":12", "\"dim\":-1", kCorrupt, "\"dim\" is negative"},
      // Another known dimension is another number of bytes.
      {"\"dim\":12", "\"dim\":4", kCorrupt, "k_proj"},
      {"\"block\":16,\"seed\"", "\"block\":3,\"seed\"", kCorrupt, "blocks of 3"},
      {"\"block\":16,\"seed\"", "\"block\":0,\"seed\"", kCorrupt, "blocks of 0"},
      {"\"block\":16,\"seed\"", "\"block\":32,\"seed\"", kCorrupt, "blocks of 32"},
      {seed, "\"seed\":-1", kCorrupt, "\"seed\" is not an unsigned integer"},
      {seed, "\"seed\":1.5", kCorrupt, "\"seed\" is not an unsigned integer"},
      {seed, "\"sed\":1", kCorrupt, "field \"seed\" is missing"},
      {rotation, "\"rotation\":16", kCorrupt, "expected a JSON object"},
      {rotation, "\"turn\":1", kCorrupt, "field \"rotation\" is missing"},
      {book, "\"book\":{\"dim\":12}", kCorrupt, "field \"id\" is missing"},
      {book, "\"book\":{\"id\":\"gauss-1\"}", kCorrupt, "field \"dim\" is missing"},
      {book, "\"look\":{}", kCorrupt, "field \"book\" is missing"},
      {both, gains("\"row\",\"depth\""), kUnsupported, "gains of \"depth\" are not known"},
      {both, gains("\"row\",\"row\""), kCorrupt, "gains of \"row\" are listed twice"},
      {both, gains("1"), kCorrupt, "\"gains\" holds no string"},
      {both, "\"gains\":true", kCorrupt, "\"gains\" is not an array"},
      {both, gains("\"row\""), kCorrupt, "q_proj"},  // fewer bytes than are there
      {gains("\"column\""), gains("\"row\""), kCorrupt, "expected them only of"},
  };
  for (const Fault& fault : faults) {
    const Error error = rewrite(fault.from, fault.to);
    EXPECT_EQ(error.code(), fault.code) << fault.to << ": " << error.what();
    EXPECT_NE(std::string(error.what()).find(fault.says), std::string::npos)
        << fault.to << ": " << error.what();
    EXPECT_EQ(rewrite(fault.to, fault.from).code(), kInternal) << fault.to;
  }
}

TEST(Manifest, IsStrict) {
  const std::string line = std::string(64, '0') + "  a.json\n";
  EXPECT_EQ(parse_manifest(line, "m").at("a.json"), std::string(64, '0'));
  for (const std::string& bad :
       {line.substr(0, line.size() - 1), std::string(64, 'A') + "  a\n",
        std::string(64, '0') + " a\n", std::string(64, '0') + "  a/b\n",
        std::string(64, '0') + "  ..\n", line + line, std::string("\n") + line}) {
    EXPECT_THROW(parse_manifest(bad, "m"), Error) << bad;
  }
}

}  // namespace
}  // namespace deltacome
