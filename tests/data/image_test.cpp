#include "data/image.h"

#include <sys/resource.h>
#include <turbojpeg.h>
#include <zlib.h>

#include <catch2/catch.hpp>

#include "core/file.h"
#include "tests/data/temporary_directory.h"
#include "tests/fixtures/fixture.h"
#include "tests/fixtures/image_fixture.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

std::string file(const std::string& name) {
  return read_file(CONCLAVE_FIXTURES "/images/" + name, "tests/fixtures/make_images.py writes it");
}

std::string image_error(std::string_view bytes, std::int64_t most_pixels = kMostPixels) {
  return error_of([&] { decode_image(bytes, "file", most_pixels); });
}

std::string big_endian(std::uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

std::string chunk(const std::string& type, const std::string& data) {
  const std::string typed = type + data;
  const auto checksum =
      crc32(0, reinterpret_cast<const Bytef*>(typed.data()), static_cast<uInt>(typed.size()));
  return big_endian(static_cast<std::uint32_t>(data.size())) + typed +
         big_endian(static_cast<std::uint32_t>(checksum));
}

// A well-formed 8-bit grey PNG with this size in its header and with `pixels` as its data, which need not
// match.
std::string png(std::uint32_t height, std::uint32_t width, const std::string& pixels) {
  std::string packed(compressBound(pixels.size()), '\0');
  uLongf size = packed.size();
  compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(pixels.data()),
           pixels.size());
  packed.resize(size);
  return "\x89PNG\r\n\x1A\n" +
         chunk("IHDR", big_endian(width) + big_endian(height) + std::string("\x08\0\0\0\0", 5)) +
         chunk("IDAT", packed) + chunk("IEND", "");
}

// Encodes the grey image `image` as a JPEG of the highest quality.
std::string jpeg_of(const Image& image, int flags = 0) {
  const auto width = static_cast<int>(image.shape.width), height = static_cast<int>(image.shape.height);
  tjhandle compressor = tjInitCompress();
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  REQUIRE(tjCompress2(compressor, image.pixels.data(), width, 0, height, TJPF_GRAY, &bytes, &size,
                      TJSAMP_GRAY, 100, flags) == 0);
  std::string file(reinterpret_cast<const char*>(bytes), size);
  tjFree(bytes);
  tjDestroy(compressor);
  return file;
}

// The JPEG `file` with an APP1 segment, after SOI.
std::string with_exif(const std::string& file, const std::string& tiff) {
  const std::string segment = std::string("Exif\0\0", 6) + tiff;
  return file.substr(0, 2) + "\xFF\xE1" +
         big_endian(static_cast<std::uint32_t>(segment.size() + 2)).substr(2) + segment + file.substr(2);
}

// EXIF data with two tags; the second is the orientation.
std::string exif(bool little, std::uint32_t orientation, std::uint32_t type = 3, std::uint32_t count = 1) {
  const auto number = [&](std::uint32_t value, std::size_t size) {
    const std::string digits = big_endian(value).substr(4 - size);
    return little ? std::string(digits.rbegin(), digits.rend()) : digits;
  };
  return (little ? "II" : "MM") + number(42, 2) + number(8, 4) + number(2, 2) +  //
         number(0x0100, 2) + number(4, 2) + number(1, 4) + number(0x0112, 4) + number(0x0112, 2) +
         number(type, 2) + number(count, 4) + number(orientation, 2) + number(0, 2) + number(0, 4);
}

// A progressive JPEG of black pixels with at least `scans` scans. Each scan added to those of the encoder
// repeats that some coefficients are 0.
std::string with_scans(std::int64_t height, std::int64_t width, int scans) {
  const std::string file =
      jpeg_of({{height, width, 1}, std::vector<std::uint8_t>(static_cast<std::size_t>(height * width))},
              TJFLAG_PROGRESSIVE);
  std::vector<std::size_t> found;
  for (std::size_t at = 0; (at = file.find("\xFF\xDA", at)) != std::string::npos; ++at) found.push_back(at);
  REQUIRE(found.size() > 2);
  const std::size_t tables = file.rfind("\xFF\xC4", found[1]);
  std::string scan = file.substr(tables, file.find('\xFF', found[1] + 10) - tables);
  scan[found[1] - tables + 9] = 0;  // the scan gives all bits of the coefficients
  std::string all = file.substr(0, file.size() - 2);
  for (int count = static_cast<int>(found.size()); count < scans; ++count) all += scan;
  return all + "\xFF\xD9";
}

}  // namespace

TEST_CASE("every kind of PNG becomes grey, colour, or colour with alpha", "[data]") {
  const std::string name =
      GENERATE("grey", "colour", "alpha", "palette", "palette_alpha", "grey_alpha", "interlaced");
  CHECK_THAT(decode_image(file(name + ".png"), name), IsImage(image_fixture(name), 0));
}

TEST_CASE("a PNG's 16 bits become 8", "[data]") {
  const std::string name = GENERATE("grey", "colour", "alpha");
  CHECK_THAT(decode_image(file(name + "_16.png"), name), IsImage(image_fixture(name), 0));
}

TEST_CASE("a JPEG is grey or colour, progressive or not", "[data]") {
  const std::string name = GENERATE("grey.jpg", "colour.jpg", "progressive.jpg");
  CHECK_THAT(decode_image(file(name), name), IsImage(image_fixture(name), 2));
}

TEST_CASE("a JPEG is turned and mirrored as its EXIF orientation says", "[data]") {
  // Uniform blocks of 24 x 24 pixels, which JPEG compression preserves.
  const std::vector<int> blocks{10,  70,  130,  //
                                190, 250, 40};
  Image image{{48, 72, 1}, std::vector<std::uint8_t>(48 * 72)};
  for (std::size_t i = 0; i < image.pixels.size(); ++i)
    image.pixels[i] = static_cast<std::uint8_t>(blocks[i / 72 / 24 * 3 + i % 72 / 24]);
  const std::vector<std::vector<int>> expected{
      {10, 70, 130, 190, 250, 40},   // unchanged
      {130, 70, 10, 40, 250, 190},   // mirrored left to right
      {40, 250, 190, 130, 70, 10},   // rotated by 180 degrees
      {190, 250, 40, 10, 70, 130},   // mirrored top to bottom
      {10, 190, 70, 250, 130, 40},   // transposed
      {190, 10, 250, 70, 40, 130},   // rotated by 90 degrees clockwise
      {40, 130, 250, 70, 190, 10},   // transposed at the other diagonal
      {130, 40, 70, 250, 10, 190}};  // rotated counterclockwise
  const std::string plain = jpeg_of(image);
  const bool little = GENERATE(true, false);
  for (std::uint32_t orientation = 1; orientation <= 8; ++orientation) {
    CAPTURE(little, orientation);
    const Image shown = decode_image(with_exif(plain, exif(little, orientation)), "file");
    REQUIRE(shown.shape == (orientation < 5 ? ImageShape{48, 72, 1} : ImageShape{72, 48, 1}));
    const std::int64_t across = shown.shape.width / 24;
    for (std::size_t block = 0; block < 6; ++block) {
      const auto at = static_cast<std::int64_t>(block);
      const std::int64_t corner = at / across * 24 * shown.shape.width + at % across * 24;
      for (const std::int64_t pixel : {corner, corner + 23 * shown.shape.width + 23})
        CHECK(std::abs(shown.pixels[static_cast<std::size_t>(pixel)] - expected[orientation - 1][block]) <=
              2);
    }
  }
  // In colour images, the three bytes of a pixel stay together.
  const Image colour = image_fixture("colour.jpg");
  Image half = colour;
  for (std::int64_t y = 0; y < half.shape.height; ++y)
    for (std::int64_t x = 0; x < half.shape.width; ++x)
      for (std::int64_t c = 0; c < 3; ++c)
        half.pixels[static_cast<std::size_t>((y * half.shape.width + x) * 3 + c)] =
            colour.pixels[static_cast<std::size_t>(colour.shape.size() - (y * half.shape.width + x + 1) * 3 +
                                                   c)];
  CHECK_THAT(decode_image(with_exif(file("colour.jpg"), exif(true, 3)), "file"), IsImage(half, 2));
}

TEST_CASE("EXIF that is malformed leaves a JPEG as it is", "[data]") {
  const Image image{{8, 16, 1}, std::vector<std::uint8_t>(8 * 16, 9)};
  const std::string plain = jpeg_of(image);
  const auto shape = [&](const std::string& tiff) {
    return decode_image(with_exif(plain, tiff), "file").shape;
  };
  const std::string good = exif(false, 6);
  REQUIRE(shape(good) == ImageShape{16, 8, 1});
  for (std::size_t size = 0; size < 8 + 2 + 12 + 10; ++size)
    CHECK(shape(good.substr(0, size)) == image.shape);
  for (const std::uint32_t orientation : {0u, 9u, 0xFFFFu})
    CHECK(shape(exif(true, orientation)) == image.shape);
  CHECK(shape(exif(true, 6, 4)) == image.shape);                         // not a 16-bit number
  CHECK(shape(exif(true, 6, 3, 2)) == image.shape);                      // two numbers instead of one
  for (const char* offset : {"\xFF\xFF\xFF\xFF", "\x7F\xFF\xFF\xFF"}) {  // the directory is out of range
    std::string elsewhere = good;
    CHECK(shape(elsewhere.replace(4, 4, offset, 4)) == image.shape);
  }
  std::string many = good;
  CHECK(shape(many.replace(8, 2, "\xFF\xFF", 2)) == ImageShape{16, 8, 1});  // claims more tags than it has
  CHECK(shape(many.substr(0, 22)) == image.shape);
  CHECK(shape("XX" + good.substr(2)) == image.shape);
  std::string adobe = with_exif(plain, good);  // another APP1 segment comes first
  adobe.insert(2, std::string("\xFF\xE1\0\x08http:/", 10));
  CHECK(decode_image(adobe, "file").shape == ImageShape{16, 8, 1});
}

TEST_CASE("a JPEG of many pixels and more scans than encoders make is refused", "[data]") {
  CHECK(image_error(with_scans(1024, 1025, 32)) == "");
  CHECK_THAT(image_error(with_scans(1024, 1025, 33)),
             StartsWith("file: 33 scans of 1024 x 1025 pixels") && Contains("may have at most 32 scans"));
  CHECK(image_error(with_scans(1024, 1024, 33)) == "");
  CHECK_THAT(image_error(with_scans(8, 8, 600)), StartsWith("file: not a good JPEG file ("));
  bool told = false;
  CHECK_THROWS_AS(
      decode_image(with_scans(1024, 1025, 33), "file", kMostPixels, [&](const ImageShape&) { told = true; }),
      Error);
  CHECK_FALSE(told);  // refused before memory is requested
}

TEST_CASE("a CMYK JPEG is refused", "[data]") {
  CHECK_THAT(image_error(file("cmyk.jpg")), StartsWith("file: ") && Contains("CMYK"));
}

TEST_CASE("a file that is neither PNG nor JPEG is refused", "[data]") {
  CHECK_THAT(image_error("GIF89a"), StartsWith("file: neither a PNG nor a JPEG"));
  CHECK_THAT(image_error(""), StartsWith("file: neither a PNG nor a JPEG"));
}

TEST_CASE("a PNG written and read again is the same", "[data]") {
  const std::string name = GENERATE("grey", "colour", "alpha");
  const Image image = image_fixture(name);
  CHECK_THAT(decode_image(encode_png(image), name), IsImage(image, 0));
}

TEST_CASE("an image whose bytes do not match its shape is refused", "[data]") {
  CHECK_THAT(error_of([] { encode_png({{1, 1, 2}, {0, 0}}); }), Contains("2 channels"));
  CHECK_THAT(error_of([] { encode_png({{1, 2, 1}, {0}}); }), Contains("1 bytes for 1 x 2 x 1"));
  CHECK_THAT(error_of([] { to_rgb({{1, 1, 2}, {0, 0}}); }), StartsWith("to_rgb: ") && Contains("2 channels"));
  CHECK_THAT(error_of([] { to_grey({{1, 2, 4}, {0, 0, 0, 0}}); }), Contains("4 bytes for 1 x 2 x 4"));
  CHECK_THAT(error_of([] { encode_png({{0, 2, 1}, {}}); }), StartsWith("encode_png: "));
}

TEST_CASE("a truncated image is refused at any length", "[data]") {
  for (const char* name : {"palette_alpha.png", "grey_16.png", "grey.jpg", "colour.jpg", "progressive.jpg"}) {
    const std::string whole = file(name);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      CAPTURE(name, size);
      REQUIRE_THAT(image_error(std::string_view(whole).substr(0, size)), StartsWith("file: "));
    }
  }
}

TEST_CASE("a damaged PNG is found by its checksums, with the position of the chunk", "[data]") {
  std::string bytes = file("colour.png");
  for (std::size_t at = 8; at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    CAPTURE(at);
    REQUIRE_THAT(image_error(damaged), StartsWith("file: the PNG chunk at byte "));
  }
}

TEST_CASE("a damaged JPEG gives an error or an image and does not crash", "[data]") {
  const std::string bytes = file(GENERATE("colour.jpg", "progressive.jpg"));
  for (std::size_t at = 3; at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
    image_error(damaged, 1 << 16);
  }
}

TEST_CASE("image sizes are checked before memory is allocated", "[data]") {
  const std::string row(1 + 4, '\0');
  CHECK(image_error(png(1, 4, row)) == "");
  CHECK_THAT(image_error(png(2, 4, row)), StartsWith("file: not a good PNG file ("));  // a row is missing
  CHECK(image_error(png(2, 2, "\0\1\2\0\3\4"), 4) != "");
  CHECK_THAT(image_error(png(1, 4, row), 3), Contains("1 x 4 pixels") && Contains("limit of 3"));
  CHECK_THAT(image_error(png(1'000'000, 1'000'000, row)), Contains("above the limit of 67108864"));
  CHECK_THAT(image_error(png(8000, 8000, row)),
             Contains("8000 x 8000 pixels") && Contains("cannot be in a file of"));
  CHECK_THAT(image_error(png(0, 4, row)), StartsWith("file: not a good PNG file ("));
  CHECK_THAT(image_error(png(0x8000'0000, 4, row)), StartsWith("file: not a good PNG file ("));

  std::string jpeg = file("grey.jpg");
  const std::size_t frame = jpeg.find("\xFF\xC0");
  REQUIRE(frame != std::string::npos);
  jpeg.replace(frame + 5, 4, "\xFF\x00\xFF\x00", 4);
  CHECK_THAT(image_error(jpeg), Contains("65280 x 65280 pixels") && Contains("limit"));
  jpeg.replace(frame + 5, 4, "\x20\x00\x20\x00", 4);
  CHECK_THAT(image_error(jpeg), Contains("8192 x 8192 pixels") && Contains("cannot be in a file of"));
}

TEST_CASE("comments in a PNG take no memory", "[data]") {
  const std::string plain = png(1, 4, std::string("\0\1\2\3\4", 5));
  const std::string text(7'000'000, 'x');
  std::string packed(compressBound(text.size()), '\0');
  uLongf size = packed.size();
  compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(text.data()),
           text.size());
  packed.resize(size);
  const std::string remark = chunk("zTXt", std::string("Comment\0\0", 9) + packed);
  std::string remarks;
  for (int i = 0; i < 60; ++i) remarks += remark;
  const std::size_t after_header = 8 + 12 + 13;
  const auto most_memory = [] {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    return used.ru_maxrss / 1024;  // MiB
  };
  const auto before = most_memory();
  const std::string talkative = plain.substr(0, after_header) + remarks + plain.substr(after_header);
  CHECK(decode_image(talkative, "file").pixels == std::vector<std::uint8_t>{1, 2, 3, 4});
  CHECK(most_memory() - before < 200);  // the unpacked comments are 400 MiB
  // Chunks that affect the pixels are still read.
  const std::string dark = chunk("gAMA", big_endian(100'000));
  const std::string linear = plain.substr(0, after_header) + dark + plain.substr(after_header);
  const std::string both = plain.substr(0, after_header) + remark + dark + plain.substr(after_header);
  CHECK(decode_image(both, "file").pixels == decode_image(linear, "file").pixels);
  CHECK(decode_image(linear, "file").pixels != decode_image(plain, "file").pixels);
}

TEST_CASE("transparent pixels show the background, and grey is repeated as RGB", "[data]") {
  const Image image{{1, 3, 4}, {10, 20, 30, 0, 10, 20, 30, 255, 0, 100, 200, 128}};
  const Image rgb = to_rgb(image, {255, 0, 100});
  CHECK(rgb.shape == ImageShape{1, 3, 3});
  CHECK(rgb.pixels == std::vector<std::uint8_t>{255, 0, 100, 10, 20, 30, 127, 50, 150});
  CHECK(to_rgb({{2, 1, 1}, {7, 9}}).pixels == std::vector<std::uint8_t>{7, 7, 7, 9, 9, 9});
  CHECK(to_rgb(rgb).pixels == rgb.pixels);
}

TEST_CASE("grey is the luma that Pillow computes", "[data]") {
  CHECK_THAT(to_grey(image_fixture("noise_luma")), IsImage(image_fixture("noise_luma_grey"), 0));
  CHECK(to_grey({{1, 1, 4}, {1, 2, 3, 0}}, {50, 50, 50}).pixels == std::vector<std::uint8_t>{50});
  CHECK(to_grey({{1, 1, 1}, {42}}).pixels == std::vector<std::uint8_t>{42});
}
