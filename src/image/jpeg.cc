// SPDX-License-Identifier: Apache-2.0
// libjpeg reports errors by a callback that must not return; it jumps back here. Between setjmp and
// the end of reading nothing is made that has a destructor.
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs FILE

#include <jpeglib.h>

#include "core/check.h"
#include "image/formats.h"

namespace deltacome::image {
namespace {

// A progressive file of a few kilobytes may ask for thousands of passes over a large picture; real
// ones have about ten.
constexpr int kMaxScans = 256;

/// The decompressor with what its callbacks need.
struct Reader {
  jpeg_decompress_struct jpeg{};  // first: callbacks get its address
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf back{};
  char message[JMSG_LENGTH_MAX] = "";

  Reader() = default;
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { jpeg_destroy_decompress(&jpeg); }
};

[[noreturn]] void jump_back(j_common_ptr common) {
  auto* reader = static_cast<Reader*>(common->client_data);
  (*common->err->format_message)(common, reader->message);
  std::longjmp(reader->back, 1);
}

/// A warning is damage that libjpeg papers over: the picture is not what was sent.
void take_message(j_common_ptr common, int level) {
  if (level < 0) jump_back(common);
}

void count_scans(j_common_ptr common) {
  auto* reader = static_cast<Reader*>(common->client_data);
  if (reader->jpeg.input_scan_number <= kMaxScans) return;
  std::snprintf(reader->message, sizeof reader->message, "it has more than %d scans", kMaxScans);
  std::longjmp(reader->back, 1);
}

bool read_header(Reader& reader, Bytes file) {
  reader.jpeg.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = jump_back;
  reader.errors.emit_message = take_message;
  reader.jpeg.client_data = &reader;
  reader.progress.progress_monitor = count_scans;
  if (setjmp(reader.back) != 0) return false;
  jpeg_create_decompress(&reader.jpeg);
  reader.jpeg.client_data = &reader;
  reader.jpeg.progress = &reader.progress;
  jpeg_mem_src(&reader.jpeg, reinterpret_cast<const unsigned char*>(file.data()),
               static_cast<unsigned long>(file.size()));
  jpeg_read_header(&reader.jpeg, TRUE);
  return true;
}

bool read_rows(Reader& reader, Image& image) {
  if (setjmp(reader.back) != 0) return false;
  reader.jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&reader.jpeg);
  while (reader.jpeg.output_scanline < reader.jpeg.output_height) {
    JSAMPROW row = image.rgb.data() + 3 * image.width * reader.jpeg.output_scanline;
    jpeg_read_scanlines(&reader.jpeg, &row, 1);
  }
  jpeg_finish_decompress(&reader.jpeg);
  return true;
}

}  // namespace

Image decode_jpeg(Bytes file, const ImageLimits& limits) {
  Reader reader;
  const auto fail_with_message = [&] {
    fail(ErrorCode::kCorrupt, "JPEG picture: {}", reader.message);
  };
  if (!read_header(reader, file)) fail_with_message();
  const J_COLOR_SPACE space = reader.jpeg.jpeg_color_space;
  if (space == JCS_CMYK || space == JCS_YCCK)
    fail(ErrorCode::kUnsupported, "JPEG picture: its colours are CMYK, expected RGB or grey");
  Image image = allocate_image("JPEG", reader.jpeg.image_width, reader.jpeg.image_height, limits);
  if (!read_rows(reader, image)) fail_with_message();
  return image;
}

}  // namespace deltacome::image
