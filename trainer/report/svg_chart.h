// Line charts and heat maps as inline SVG, for report.html.
#pragma once
#include <string>
#include <vector>

namespace fucina {

struct Series {
    std::string name;          // in the legend; empty: not there
    std::string css_class;     // "ember", "steel", "faint"; colours are in report.html's style
    std::vector<double> x, y;  // equally long, x rising; values that are not finite are gaps
    bool dots = false;         // marks at the points too, for sparse series
};

struct LineChart {
    std::vector<Series> series;
    bool logarithmic = false;  // y; values must be positive to show
    bool from_zero = false;    // the y axis begins at 0
    bool wide = false;         // over the page's whole width
};

struct HeatMap {
    std::vector<std::string> row_names;
    std::vector<std::vector<double>> rows;  // equally long; NaN: no cell
    double first_x = 0, last_x = 0;         // what the first and last column stand for
    std::string x_name;
    double balanced = 1, hottest = 2;  // values of the palest and the strongest colour
    bool diverging = false;            // below `balanced` turns blue instead of pale
};

// The SVG element; what has no finite value at all becomes a line that says so.
std::string line_chart_svg(const LineChart& chart);
std::string heat_map_svg(const HeatMap& map);

// Text made safe inside HTML and its attributes.
std::string html_escape(const std::string& text);

// A number as a person reads it: 1,234,567, 0.0123, 3.2e-05.
std::string human_number(double value);

// The points to draw: all of a short series, else the lowest and highest of each of `buckets`.
Series thinned(const Series& series, size_t buckets);

}  // namespace fucina
