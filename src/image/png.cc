// SPDX-License-Identifier: Apache-2.0
// libpng reports errors by longjmp: between setjmp and the end of reading nothing is made here that
// has a destructor.
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>

#include "core/check.h"
#include "image/formats.h"

namespace deltacome::image {
namespace {

/// What libpng's callbacks see.
struct Source {
  Bytes rest;
  char message[160] = "";
};

void read_bytes(png_structp png, png_bytep to, size_t n) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (n > source->rest.size()) png_error(png, "the file ends too early");
  std::memcpy(to, source->rest.data(), n);
  source->rest = source->rest.subspan(n);
}

[[noreturn]] void keep_message(png_structp png, png_const_charp text) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  std::snprintf(source->message, sizeof source->message, "%s", text);
  png_longjmp(png, 1);
}

void ignore_warning(png_structp, png_const_charp) {}

/// Owns the two structures of a reader.
class Reader {
 public:
  explicit Reader(Source& source)
      : png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, keep_message, ignore_warning)),
        info_(png_ == nullptr ? nullptr : png_create_info_struct(png_)) {
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      fail(ErrorCode::kOutOfMemory, "PNG picture: no memory to read it");
    }
    png_set_read_fn(png_, &source, read_bytes);
  }
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  png_structp png() const noexcept { return png_; }
  png_infop info() const noexcept { return info_; }

 private:
  png_structp png_;
  png_infop info_;
};

/// Asks for 8-bit RGB. False after an error.
bool read_header(const Reader& reader, const ImageLimits& limits) {
  if (setjmp(png_jmpbuf(reader.png())) != 0) return false;
  png_set_user_limits(reader.png(), PNG_UINT_31_MAX,
                      PNG_UINT_31_MAX);  // allocate_image() says more
  png_set_chunk_malloc_max(reader.png(), limits.max_bytes);
  png_set_keep_unknown_chunks(reader.png(), PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_read_info(reader.png(), reader.info());
  return true;
}

bool read_rows(const Reader& reader, Image& image) {
  if (setjmp(png_jmpbuf(reader.png())) != 0) return false;
  png_structp png = reader.png();
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  const int passes = png_set_interlace_handling(png);
  png_read_update_info(png, reader.info());
  if (png_get_rowbytes(png, reader.info()) != static_cast<size_t>(3 * image.width))
    png_error(png, "its rows are not RGB");
  for (int pass = 0; pass < passes; ++pass) {
    for (int64_t y = 0; y < image.height; ++y)
      png_read_row(png, image.rgb.data() + 3 * image.width * y, nullptr);
  }
  png_read_end(png, nullptr);
  return true;
}

}  // namespace

Image decode_png(Bytes file, const ImageLimits& limits) {
  Source source{file};
  const Reader reader(source);
  const auto fail_with_message = [&] {
    fail(ErrorCode::kCorrupt, "PNG picture: {}", source.message);
  };
  if (!read_header(reader, limits)) fail_with_message();
  Image image = allocate_image("PNG", png_get_image_width(reader.png(), reader.info()),
                               png_get_image_height(reader.png(), reader.info()), limits);
  if (!read_rows(reader, image)) fail_with_message();
  return image;
}

}  // namespace deltacome::image
