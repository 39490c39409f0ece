// An abstract drawing surface, implemented for SVG and PNG, so that the same drawing code produces both.
// Coordinates are in pixels from the top left corner, y downwards; colours are opaque.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace conclave {

struct Colour {
  std::uint8_t red = 0, green = 0, blue = 0;
  bool operator==(const Colour&) const = default;
};

inline constexpr Colour kWhite{255, 255, 255}, kBlack{0, 0, 0};

enum class Anchor { start, middle, end };  ///< part of a text that is placed at its x

struct TextStyle {
  double size = 12;  ///< pixels per em
  Colour colour = kBlack;
  Anchor anchor = Anchor::start;
  bool bold = false;
};

class Canvas {
 public:
  virtual ~Canvas() = default;
  virtual void fill_rect(double x, double y, double width, double height, Colour colour) = 0;
  virtual void line(double x1, double y1, double x2, double y2, double width, Colour colour) = 0;
  /// Draws one line of UTF-8; `y` is the baseline.
  virtual void text(double x, double y, std::string_view text, const TextStyle& style) = 0;
  /// Returns the file's bytes. Nothing may be drawn afterwards.
  virtual std::string finish() = 0;
};

inline constexpr const char* kFont = "DejaVu Sans";

/// Estimated width of `text` in kFont at `size`, in pixels; used to reserve space.
double estimated_width(std::string_view text, double size);

}  // namespace conclave
