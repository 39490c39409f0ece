#include "recipes/plot/svg_canvas.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <utility>

namespace conclave {
namespace {

std::string hex(Colour colour) {
  return fmt::format("#{:02x}{:02x}{:02x}", colour.red, colour.green, colour.blue);
}

// Two decimals are precise enough and keep the file short.
double rounded(double value) { return std::round(value * 100) / 100; }

}  // namespace

std::string xml_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

SvgCanvas::SvgCanvas(double width, double height) {
  out_ = fmt::format(
      R"(<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" font-family="{2}, Verdana, sans-serif">
)",
      rounded(width), rounded(height), kFont);
}

void SvgCanvas::fill_rect(double x, double y, double width, double height, Colour colour) {
  fmt::format_to(std::back_inserter(out_),
                 R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}"/>)"
                 "\n",
                 rounded(x), rounded(y), rounded(width), rounded(height), hex(colour));
}

void SvgCanvas::line(double x1, double y1, double x2, double y2, double width, Colour colour) {
  fmt::format_to(std::back_inserter(out_),
                 R"(<line x1="{}" y1="{}" x2="{}" y2="{}" stroke-width="{}" stroke="{}"/>)"
                 "\n",
                 rounded(x1), rounded(y1), rounded(x2), rounded(y2), rounded(width), hex(colour));
}

void SvgCanvas::text(double x, double y, std::string_view text, const TextStyle& style) {
  const char* anchor = style.anchor == Anchor::start    ? "start"
                       : style.anchor == Anchor::middle ? "middle"
                                                        : "end";
  fmt::format_to(std::back_inserter(out_),
                 R"(<text x="{}" y="{}" font-size="{}" fill="{}" text-anchor="{}"{}>{}</text>)"
                 "\n",
                 rounded(x), rounded(y), rounded(style.size), hex(style.colour), anchor,
                 style.bold ? R"( font-weight="bold")" : "", xml_escaped(text));
}

std::string SvgCanvas::finish() {
  out_ += "</svg>\n";
  return std::move(out_);
}

}  // namespace conclave
