// A table of lifts as a picture: one cell per row and column, red where the value is above 1, blue below,
// white at 1, on a logarithmic scale.
#pragma once

#include <string>
#include <vector>

#include "recipes/plot/canvas.h"

namespace conclave {

struct HeatMap {
  struct Label {
    std::string name, note;  ///< the note stands beside it in grey
  };
  std::string title;
  std::vector<std::string> subtitles = {};  ///< a line each
  std::string row_caption, row_note_caption, column_caption;
  std::string legend;  ///< what the values are
  std::vector<Label> rows = {}, columns = {};
  std::vector<double> values = {};  ///< [row * columns + column], 0 or more
};

/// Where things are, in pixels.
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

/// The scale of `values` reaches from 2^-n to 2^n: the power of two nearest to the largest, from 4 to 16.
int octaves(const std::vector<double>& values);
/// The colour of `lift` on that scale; beyond its ends, that of the end.
Colour lift_colour(double lift, int octaves);

void draw(const HeatMap& map, Canvas& canvas);

std::string heat_map_svg(const HeatMap& map);
/// Two pixels per pixel of the SVG, or fewer where the longer side would have more than 8192.
std::string heat_map_png(const HeatMap& map);

}  // namespace conclave
