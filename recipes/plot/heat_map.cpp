#include "recipes/plot/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "recipes/plot/png_canvas.h"
#include "recipes/plot/svg_canvas.h"

namespace conclave {
namespace {

constexpr double kMargin = 24, kLabelSize = 12, kNoteSize = 10, kTitleSize = 18, kLine = 18;
constexpr double kNoteWidth = 52;  // column of row notes, right of the cells
constexpr double kLegendWidth = 240, kLegendHeight = 10;
constexpr Colour kGrey{110, 110, 110}, kDark{40, 40, 40};

// ColorBrewer's RdBu scale (colorbrewer2.org, Cynthia Brewer), from blue to red, without its two darkest
// colours.
constexpr std::array<Colour, 9> kColours{{{0x21, 0x66, 0xac},
                                          {0x43, 0x93, 0xc3},
                                          {0x92, 0xc5, 0xde},
                                          {0xd1, 0xe5, 0xf0},
                                          {0xf7, 0xf7, 0xf7},
                                          {0xfd, 0xdb, 0xc7},
                                          {0xf4, 0xa5, 0x82},
                                          {0xd6, 0x60, 0x4d},
                                          {0xb2, 0x18, 0x2b}}};

Colour between(Colour a, Colour b, double part) {
  const auto mix = [&](std::uint8_t from, std::uint8_t to) {
    return static_cast<std::uint8_t>(std::lround(from + part * (to - from)));
  };
  return {mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue)};
}

// A text colour readable on `colour`, by its Rec. 601 luma.
Colour ink_on(Colour colour) {
  return 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue < 140 ? kWhite : kDark;
}

double widest(const std::vector<HeatMap::Label>& labels, double size) {
  double width = 0;
  for (const auto& label : labels) width = std::max(width, estimated_width(label.name, size));
  return width;
}

void draw_legend(const HeatMap& map, Canvas& canvas, double x, double y) {
  const int limit = octaves(map.values);
  constexpr int kSteps = 80;
  for (int i = 0; i < kSteps; ++i)
    canvas.fill_rect(x + kLegendWidth / kSteps * i, y, kLegendWidth / kSteps, kLegendHeight,
                     lift_colour(std::exp2(limit * (2.0 * i / (kSteps - 1) - 1)), limit));
  for (int octave = -limit; octave <= limit; ++octave) {
    const double at = x + kLegendWidth * (octave + limit) / (2.0 * limit);
    canvas.line(at, y + kLegendHeight, at, y + kLegendHeight + 4, 1, kGrey);
    canvas.text(at, y + kLegendHeight + 16,
                fmt::format("{}{}", octave < 0 ? "1/" : "", 1 << std::abs(octave)),
                {.size = kNoteSize, .colour = kGrey, .anchor = Anchor::middle});
  }
  canvas.text(x, y + kLegendHeight + 34, map.legend, {.size = kNoteSize, .colour = kGrey});
}

}  // namespace

HeatMapLayout::HeatMapLayout(const HeatMap& map) {
  require(map.values.size() == map.rows.size() * map.columns.size(),
          "heat map: {} values do not fill {} rows of {}", map.values.size(), map.rows.size(),
          map.columns.size());
  left_ = kMargin + std::max(widest(map.rows, kLabelSize), estimated_width(map.row_caption, kNoteSize)) + 8;
  top_ = kMargin + kTitleSize + kLine * static_cast<double>(map.subtitles.size()) + 70;
  width_ = cell_x(map.columns.size()) + kNoteWidth + kMargin;
  width_ = std::max(width_, left_ + kMargin + std::max(kLegendWidth, estimated_width(map.legend, kNoteSize)));
  width_ = std::max(width_, 2 * kMargin + estimated_width(map.title, kTitleSize));
  for (const std::string& subtitle : map.subtitles)
    width_ = std::max(width_, 2 * kMargin + estimated_width(subtitle, kLabelSize));
  width_ = std::ceil(width_);
  left_ = std::round(left_);
  height_ = cell_y(map.rows.size()) + 60 + kMargin;
}

int octaves(const std::vector<double>& values) {
  const double most = values.empty() ? 1 : std::max(1.0, std::ranges::max(values));
  return std::clamp(static_cast<int>(std::lround(std::log2(most))), 2, 4);
}

Colour lift_colour(double lift, int octaves) {
  constexpr double kLast = kColours.size() - 1;
  const double exponent = lift > 0 ? std::log2(lift) : -octaves;
  const double place = std::clamp((exponent / octaves + 1) / 2 * kLast, 0.0, kLast);
  const auto stop = std::min(static_cast<std::size_t>(place), kColours.size() - 2);
  return between(kColours[stop], kColours[stop + 1], place - static_cast<double>(stop));
}

void draw(const HeatMap& map, Canvas& canvas) {
  const HeatMapLayout layout(map);
  constexpr double kCellWidth = HeatMapLayout::kCellWidth, kCellHeight = HeatMapLayout::kCellHeight;
  const double left = layout.cell_x(0), right = layout.cell_x(map.columns.size()), top = layout.cell_y(0);
  canvas.fill_rect(0, 0, layout.width(), layout.height(), kWhite);
  double y = kMargin + kTitleSize;
  canvas.text(kMargin, y, map.title, {.size = kTitleSize, .colour = kDark, .bold = true});
  for (const std::string& subtitle : map.subtitles)
    canvas.text(kMargin, y += kLine, subtitle, {.size = kLabelSize, .colour = kGrey});

  const TextStyle note{.size = kNoteSize, .colour = kGrey, .anchor = Anchor::middle};
  TextStyle row_name{.size = kLabelSize, .colour = kDark, .anchor = Anchor::end},
      row_note = note,
      column_name{.size = kLabelSize, .colour = kDark, .anchor = Anchor::middle, .bold = true};
  row_note.anchor = Anchor::end;
  canvas.text((left + right) / 2, top - 40, map.column_caption, note);
  canvas.text(left - 8, top - 8, map.row_caption, row_note);
  canvas.text(right + kNoteWidth, top - 8, map.row_note_caption, row_note);
  for (std::size_t column = 0; column < map.columns.size(); ++column) {
    const double middle = layout.cell_x(column) + kCellWidth / 2;
    canvas.text(middle, top - 22, map.columns[column].name, column_name);
    canvas.text(middle, top - 8, map.columns[column].note, note);
  }
  const int limit = octaves(map.values);
  for (std::size_t row = 0; row < map.rows.size(); ++row) {
    const double cell_y = layout.cell_y(row), baseline = cell_y + kCellHeight / 2 + 4;
    canvas.text(left - 8, baseline, map.rows[row].name, row_name);
    canvas.text(right + kNoteWidth, baseline, map.rows[row].note, row_note);
    for (std::size_t column = 0; column < map.columns.size(); ++column) {
      const double value = map.values[row * map.columns.size() + column], x = layout.cell_x(column);
      const Colour colour = lift_colour(value, limit);
      canvas.fill_rect(x, cell_y, kCellWidth - 1, kCellHeight - 1, colour);
      canvas.text(x + kCellWidth / 2, baseline, fmt::format("{:.1f}", value),
                  {.size = 11, .colour = ink_on(colour), .anchor = Anchor::middle});
    }
  }
  draw_legend(map, canvas, left, layout.cell_y(map.rows.size()) + 18);
}

std::string heat_map_svg(const HeatMap& map) {
  const HeatMapLayout layout(map);
  SvgCanvas canvas(layout.width(), layout.height());
  draw(map, canvas);
  return canvas.finish();
}

std::string heat_map_png(const HeatMap& map) {
  const HeatMapLayout layout(map);
  PngCanvas canvas(layout.width(), layout.height(),
                   std::min(2.0, 8192 / std::max(layout.width(), layout.height())));
  draw(map, canvas);
  return canvas.finish();
}

}  // namespace conclave
