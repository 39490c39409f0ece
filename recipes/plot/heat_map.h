// Draws a table of lifts: one cell per row and column, red for values above 1, blue for values below 1, white
// at 1, on a logarithmic scale.
#pragma once

#include <string>
#include <vector>

#include "recipes/plot/canvas.h"

namespace conclave {

struct HeatMap {
  struct Label {
    std::string name, note;  ///< the note is drawn in grey beside (rows) or below (columns) the name
  };
  std::string title;
  std::vector<std::string> subtitles = {};  ///< one line each
  std::string row_caption, row_note_caption, column_caption;
  std::string legend;  ///< explains the values
  std::vector<Label> rows = {}, columns = {};
  std::vector<double> values = {};  ///< [rows * columns], row by row; >= 0
};

/// Positions of the parts of the picture, in pixels.
class HeatMapLayout {
 public:
  static constexpr double kCellWidth = 44, kCellHeight = 22;

  explicit HeatMapLayout(const HeatMap& map);

  double cell_x(std::size_t column) const { return left_ + kCellWidth * static_cast<double>(column); }
  double cell_y(std::size_t row) const { return top_ + kCellHeight * static_cast<double>(row); }
  double width() const { return width_; }
  double height() const { return height_; }

 private:
  double left_, top_, width_, height_;
};

/// Range of the colour scale: n such that it reaches from 2^-n to 2^n, where 2^n is the power of two nearest
/// to the largest of `values`, limited to 4 .. 16.
int octaves(const std::vector<double>& values);
/// The colour of `lift` on that scale; values beyond an end get the colour of the end.
Colour lift_colour(double lift, int octaves);

void draw(const HeatMap& map, Canvas& canvas);

std::string heat_map_svg(const HeatMap& map);
/// Twice the resolution of the SVG, or less if the longer side would exceed 8192 pixels.
std::string heat_map_png(const HeatMap& map);

}  // namespace conclave
