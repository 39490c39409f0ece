#include "recipes/plot/png_canvas.h"

#include <cmath>

#include "core/error.h"

namespace conclave {
namespace {

void check(cairo_status_t status) {
  require(status == CAIRO_STATUS_SUCCESS, "a PNG cannot be drawn: {}", cairo_status_to_string(status));
}

cairo_status_t append(void* out, const unsigned char* bytes, unsigned int size) {
  static_cast<std::string*>(out)->append(reinterpret_cast<const char*>(bytes), size);
  return CAIRO_STATUS_SUCCESS;
}

}  // namespace

PngCanvas::PngCanvas(double width, double height, double scale)
    : surface_(cairo_image_surface_create(CAIRO_FORMAT_RGB24, static_cast<int>(std::ceil(width * scale)),
                                          static_cast<int>(std::ceil(height * scale)))),
      cairo_(cairo_create(surface_.get())) {
  check(cairo_status(cairo_.get()));
  set_colour(kWhite);
  cairo_paint(cairo_.get());
  cairo_scale(cairo_.get(), scale, scale);
}

void PngCanvas::set_colour(Colour colour) {
  cairo_set_source_rgb(cairo_.get(), colour.red / 255.0, colour.green / 255.0, colour.blue / 255.0);
}

void PngCanvas::fill_rect(double x, double y, double width, double height, Colour colour) {
  set_colour(colour);
  cairo_rectangle(cairo_.get(), x, y, width, height);
  cairo_fill(cairo_.get());
}

void PngCanvas::line(double x1, double y1, double x2, double y2, double width, Colour colour) {
  set_colour(colour);
  cairo_set_line_width(cairo_.get(), width);
  cairo_move_to(cairo_.get(), x1, y1);
  cairo_line_to(cairo_.get(), x2, y2);
  cairo_stroke(cairo_.get());
}

void PngCanvas::text(double x, double y, std::string_view text, const TextStyle& style) {
  const std::string terminated(text);
  set_colour(style.colour);
  cairo_select_font_face(cairo_.get(), kFont, CAIRO_FONT_SLANT_NORMAL,
                         style.bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
  cairo_set_font_size(cairo_.get(), style.size);
  cairo_text_extents_t extents;
  cairo_text_extents(cairo_.get(), terminated.c_str(), &extents);
  const double part = style.anchor == Anchor::start ? 0 : style.anchor == Anchor::middle ? 0.5 : 1;
  cairo_move_to(cairo_.get(), x - part * extents.x_advance, y);
  cairo_show_text(cairo_.get(), terminated.c_str());
  cairo_new_path(cairo_.get());  // cairo_show_text leaves its end point in the path
}

std::string PngCanvas::finish() {
  check(cairo_status(cairo_.get()));
  std::string bytes;
  check(cairo_surface_write_to_png_stream(surface_.get(), append, &bytes));
  return bytes;
}

}  // namespace conclave
