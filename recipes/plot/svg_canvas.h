// An SVG 1.1 canvas. Text stays text, which can be searched, read aloud and edited; Cairo's SVG would contain
// outlines.
#pragma once

#include "recipes/plot/canvas.h"

namespace conclave {

class SvgCanvas : public Canvas {
 public:
  SvgCanvas(double width, double height);

  void fill_rect(double x, double y, double width, double height, Colour colour) override;
  void line(double x1, double y1, double x2, double y2, double width, Colour colour) override;
  void text(double x, double y, std::string_view text, const TextStyle& style) override;
  std::string finish() override;

 private:
  std::string out_;
};

/// Escapes text for an element's content or an attribute's value: & < > " become entities; control
/// characters, which XML does not allow, become blanks.
std::string xml_escaped(std::string_view text);

}  // namespace conclave
