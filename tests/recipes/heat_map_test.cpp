// Checks the text of the SVG and the pixels of the PNG. e2e/experts_test.sh reads the SVG with an XML parser.
#include "recipes/plot/heat_map.h"

#include <cairo.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "recipes/plot/png_canvas.h"
#include "recipes/plot/svg_canvas.h"

using namespace conclave;

// LeakSanitizer calls this function: fontconfig, which Cairo uses, keeps some memory until the process ends.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libfontconfig"; }

namespace {

HeatMap example() {
  return {.title = "experts & classes",
          .subtitles = {"two of each"},
          .row_caption = "class",
          .row_note_caption = "of tokens",
          .column_caption = "expert",
          .legend = "lift",
          .rows = {{R"(<b>"food" & drink)", "60%"}, {"пища", "40%"}},
          .columns = {{"0", "50%"}, {"1", "50%"}},
          .values = {3.96, 0.25, 1, 0}};
}

struct Picture {
  int width = 0, height = 0;
  std::vector<Colour> pixels;
  Colour at(double x, double y) const {
    return pixels[static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
                  static_cast<std::size_t>(x)];
  }
};

Picture decoded(const std::string& png) {
  std::string_view left = png;
  const auto read = [](void* closure, unsigned char* data, unsigned int size) {
    auto& bytes = *static_cast<std::string_view*>(closure);
    if (bytes.size() < size) return CAIRO_STATUS_READ_ERROR;
    std::memcpy(data, bytes.data(), size);
    bytes.remove_prefix(size);
    return CAIRO_STATUS_SUCCESS;
  };
  cairo_surface_t* surface = cairo_image_surface_create_from_png_stream(read, &left);
  REQUIRE(cairo_surface_status(surface) == CAIRO_STATUS_SUCCESS);
  Picture image{cairo_image_surface_get_width(surface), cairo_image_surface_get_height(surface), {}};
  for (int y = 0; y < image.height; ++y) {
    const unsigned char* row =
        cairo_image_surface_get_data(surface) + y * cairo_image_surface_get_stride(surface);
    for (int x = 0; x < image.width; ++x, row += 4) {  // native 32 bits: x, red, green, blue
      std::uint32_t pixel;
      std::memcpy(&pixel, row, 4);
      image.pixels.push_back({static_cast<std::uint8_t>(pixel >> 16), static_cast<std::uint8_t>(pixel >> 8),
                              static_cast<std::uint8_t>(pixel)});
    }
  }
  cairo_surface_destroy(surface);
  return image;
}

}  // namespace

TEST_CASE("colours of lifts are white at 1 and symmetric on a log scale", "[plot]") {
  CHECK(lift_colour(1, 2) == Colour{0xf7, 0xf7, 0xf7});
  CHECK(lift_colour(4, 2) == Colour{0xb2, 0x18, 0x2b});
  CHECK(lift_colour(2, 2) == Colour{0xf4, 0xa5, 0x82});    // half way to 4
  CHECK(lift_colour(0.5, 2) == Colour{0x92, 0xc5, 0xde});  // half way to 1/4
  CHECK(lift_colour(0.25, 2) == Colour{0x21, 0x66, 0xac});
  CHECK(lift_colour(0, 2) == lift_colour(0.25, 2));
  CHECK(lift_colour(100, 2) == lift_colour(4, 2));
}

TEST_CASE("the colour scale ends at the power of two nearest to the largest lift", "[plot]") {
  CHECK(octaves({}) == 2);
  CHECK(octaves({0, 1.1}) == 2);
  CHECK(octaves({0, 4.6, 1}) == 2);
  CHECK(octaves({7}) == 3);
  CHECK(octaves({64}) == 4);
}

TEST_CASE("the SVG of a heat map has escaped labels and values with one decimal", "[plot]") {
  const std::string svg = heat_map_svg(example());
  CHECK_THAT(svg, Catch::Matchers::StartsWith("<?xml"));
  CHECK_THAT(svg, Catch::Matchers::EndsWith("</svg>\n"));
  for (const char* text :
       {">&lt;b&gt;&quot;food&quot; &amp; drink</text>", ">пища</text>", ">experts &amp; classes</text>",
        ">4.0</text>", ">0.2</text>", ">1.0</text>", ">0.0</text>", ">1/4</text>", ">lift</text>"})
    CHECK_THAT(svg, Catch::Matchers::Contains(text));
  CHECK_THAT(svg, !Catch::Matchers::Contains("<b>"));
}

TEST_CASE("characters that XML forbids are not in an SVG", "[plot]") {
  CHECK(xml_escaped("a\tb\n\x01<&>\"'") == "a b  &lt;&amp;&gt;&quot;'");
}

TEST_CASE("a heat map's PNG can be decoded, and its cells have the right colours", "[plot]") {
  const HeatMap map = example();
  const std::string png = heat_map_png(map);
  REQUIRE(png.starts_with("\x89PNG\r\n\x1a\n"));
  const Picture image = decoded(png);
  const HeatMapLayout layout(map);
  CHECK(image.width == 2 * layout.width());
  CHECK(image.height == 2 * layout.height());
  for (std::size_t row = 0; row < 2; ++row)
    for (std::size_t column = 0; column < 2; ++column) {
      INFO("row " << row << " column " << column);
      // The corner of the cell, as its centre shows a number.
      CHECK(image.at(2 * layout.cell_x(column) + 3, 2 * layout.cell_y(row) + 3) ==
            lift_colour(map.values[row * 2 + column], 2));
    }
  const double x = 2 * layout.cell_x(0), y = 2 * layout.cell_y(0);
  Colour darkest = kWhite;  // in the class name, left of the cells
  for (double dx = -60; dx < -8; ++dx)
    for (double dy = 0; dy < 40; ++dy) {
      const Colour pixel = image.at(x + dx, y + dy);
      if (pixel.red < darkest.red) darkest = pixel;
    }
  CHECK(darkest.red < 100);
}

TEST_CASE("a table too large for double resolution becomes a smaller PNG", "[plot]") {
  HeatMap map = example();
  map.columns.assign(300, {"0", ""});
  map.rows.assign(1, {"a", ""});
  map.values.assign(300, 1.0);
  CHECK(decoded(heat_map_png(map)).width == 8192);
}

TEST_CASE("a heat map may have no rows, but must have a value for each cell", "[plot]") {
  HeatMap map = example();
  map.rows.clear();
  CHECK_THROWS_AS(heat_map_svg(map), Error);
  map.values.clear();
  CHECK_THAT(heat_map_svg(map), Catch::Matchers::Contains("experts &amp; classes"));
  CHECK_THROWS_AS(PngCanvas(1e6, 10, 1), Error);
}
