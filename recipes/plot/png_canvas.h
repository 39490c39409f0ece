// A PNG canvas, drawn by Cairo.
#pragma once

#include <cairo.h>

#include <memory>

#include "recipes/plot/canvas.h"

namespace conclave {

class PngCanvas : public Canvas {
 public:
  /// Creates a white image of width * scale x height * scale pixels. Throws Error if Cairo cannot create one
  /// of that size.
  PngCanvas(double width, double height, double scale);

  void fill_rect(double x, double y, double width, double height, Colour colour) override;
  void line(double x1, double y1, double x2, double y2, double width, Colour colour) override;
  void text(double x, double y, std::string_view text, const TextStyle& style) override;
  std::string finish() override;

 private:
  void set_colour(Colour colour);

  template <auto kDestroy>
  struct Destroy {
    void operator()(auto* object) const { kDestroy(object); }
  };
  std::unique_ptr<cairo_surface_t, Destroy<cairo_surface_destroy>> surface_;
  std::unique_ptr<cairo_t, Destroy<cairo_destroy>> cairo_;
};

}  // namespace conclave
