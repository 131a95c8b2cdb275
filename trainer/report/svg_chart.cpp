#include "trainer/report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace fucina {
namespace {

// The drawing's units; the page scales it.
constexpr double kNarrow = 640, kWide = 1320, kHeight = 250;
constexpr double kLeft = 58, kRight = 14, kTop = 12, kBottom = 34;

// Where the values of one axis lie on the drawing.
struct Axis {
    double low = 0, high = 1;  // values, or their logarithms
    double from = 0, to = 1;   // drawing units
    bool logarithmic = false;

    bool can_show(double value) const {
        return std::isfinite(value) && (!logarithmic || value > 0);
    }
    double at(double value) const {
        const double v = logarithmic ? std::log10(value) : value;
        return from + (v - low) / (high - low) * (to - from);
    }
};

// Steps of 1, 2 or 5 times a power of ten, about `count` of them.
double nice_step(double span, double count) {
    const double rough = span / count;
    const double power = std::pow(10.0, std::floor(std::log10(rough)));
    for (const double factor : {1.0, 2.0, 5.0}) {
        if (rough <= factor * power) return factor * power;
    }
    return 10 * power;
}

std::vector<double> ticks_of(const Axis& axis, double count) {
    std::vector<double> ticks;
    if (axis.logarithmic) {
        const bool few = axis.high - axis.low < 2;  // decades
        for (double power = std::floor(axis.low); power <= axis.high; ++power) {
            for (const double factor : {1.0, 2.0, 5.0}) {
                const double place = power + std::log10(factor);
                if (place < axis.low || place > axis.high || (factor > 1 && !few)) continue;
                ticks.push_back(factor * std::pow(10.0, power));
            }
        }
        return ticks;
    }
    const double step = nice_step(axis.high - axis.low, count);
    for (double i = std::ceil(axis.low / step - 1e-9); i * step <= axis.high + step * 1e-9; ++i) {
        ticks.push_back(i * step + 0.0);  // + 0.0: no "-0"
    }
    return ticks;
}

// Room around the values, so that a flat line has an axis and a curve does not touch the frame.
Axis fitted(double low, double high, double from, double to, bool logarithmic, bool from_zero) {
    if (logarithmic) {
        low = std::log10(low);
        high = std::log10(high);
    }
    double margin = (high - low) * 0.06;
    if (margin <= 0) margin = std::max(std::abs(high) * 0.1, 1e-12);
    Axis axis{low - margin, high + margin, from, to, logarithmic};
    if (from_zero && !logarithmic) axis.low = 0;
    return axis;
}

// Cuts at gaps: each part of at least one point is one polyline.
std::string polylines(const Series& series, const Axis& x, const Axis& y) {
    std::string svg, points;
    auto finish = [&] {
        if (!points.empty()) {
            svg += fmt::format("<polyline class=\"{}\" points=\"{}\"/>", series.css_class, points);
        }
        points.clear();
    };
    for (size_t i = 0; i < series.x.size(); ++i) {
        if (!y.can_show(series.y[i])) {
            finish();
            continue;
        }
        points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", x.at(series.x[i]),
                              y.at(series.y[i]));
    }
    finish();
    for (size_t i = 0; series.dots && i < series.x.size(); ++i) {
        if (!y.can_show(series.y[i])) continue;
        svg += fmt::format(
            "<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"><title>{}: "
            "{}</title></circle>",
            series.css_class, x.at(series.x[i]), y.at(series.y[i]), human_number(series.x[i]),
            human_number(series.y[i]));
    }
    return svg;
}

std::string x_axis(const Axis& x, double bottom, double count) {
    std::string svg;
    for (const double tick : ticks_of(x, count)) {
        svg += fmt::format(
            "<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
            x.at(tick), bottom + 17, human_number(tick));
    }
    return svg;
}

std::string empty_svg(const char* why) {
    return fmt::format("<p class=\"empty\">{}</p>", why);
}

using Colour = std::array<double, 3>;

Colour mix(const Colour& a, const Colour& b, double share) {
    Colour colour{};
    for (size_t i = 0; i < 3; ++i) colour[i] = a[i] + (b[i] - a[i]) * share;
    return colour;
}

// Pale at `balanced`, through orange to dark red at `hottest`; blue below, if diverging.
std::string heat_colour(const HeatMap& map, double value) {
    constexpr Colour kPale{253, 246, 236}, kOrange{244, 140, 60}, kDark{140, 28, 12};
    constexpr Colour kBlue{38, 92, 140};
    double heat = (value - map.balanced) / (map.hottest - map.balanced);
    Colour colour{};
    if (heat < 0) {
        const double cold =
            map.diverging ? std::min(1.0, (map.balanced - value) / map.balanced) : 0;
        colour = mix(kPale, kBlue, cold);
    } else {
        heat = std::min(1.0, heat);
        colour = heat < 0.5 ? mix(kPale, kOrange, heat * 2) : mix(kOrange, kDark, heat * 2 - 1);
    }
    return fmt::format("#{:02x}{:02x}{:02x}", static_cast<int>(colour[0]),
                       static_cast<int>(colour[1]), static_cast<int>(colour[2]));
}

// The scale of colours at the right, with its ends' values.
std::string heat_legend(const HeatMap& map, double left, double top, double height) {
    constexpr int kSteps = 24;
    const double low = map.diverging ? 0 : map.balanced;
    std::string svg;
    for (int i = 0; i < kSteps; ++i) {
        const double value = low + (map.hottest - low) * (i + 0.5) / kSteps;
        svg += fmt::format(
            "<rect x=\"{:.1f}\" y=\"{:.2f}\" width=\"10\" height=\"{:.2f}\" fill=\"{}\"/>", left,
            top + height * (kSteps - 1 - i) / kSteps, height / kSteps + 0.3,
            heat_colour(map, value));
    }
    const auto label = [&](double value, double y) {
        svg += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", left + 15, y,
                           human_number(value));
    };
    label(map.hottest, top + 9);
    label(low, top + height);
    return svg;
}

}  // namespace

std::string html_escape(const std::string& text) {
    std::string safe;
    for (const char c : text) {
        constexpr std::string_view kMarks = "&<>\"";
        constexpr const char* kNames[] = {"&amp;", "&lt;", "&gt;", "&quot;"};
        const size_t mark = kMarks.find(c);
        safe += mark == kMarks.npos ? std::string(1, c) : kNames[mark];
    }
    return safe;
}

std::string human_number(double value) {
    if (!std::isfinite(value)) return "–";
    const double size = std::abs(value);
    if (size != 0 && (size < 1e-3 || size >= 1e15)) return fmt::format("{:.3g}", value);
    if (size < 1000 && value != std::floor(value)) return fmt::format("{:.4g}", value);
    std::string digits = fmt::format("{:.0f}", value);
    const size_t sign = value < 0 ? 1 : 0;
    for (size_t i = digits.size(); i > sign + 3; i -= 3) digits.insert(i - 3, ",");
    return digits;
}

Series thinned(const Series& series, size_t buckets) {
    const size_t count = series.x.size();
    if (count <= 2 * buckets) return series;
    Series out{series.name, series.css_class, {}, {}, series.dots};
    for (size_t bucket = 0; bucket < buckets; ++bucket) {
        const size_t from = bucket * count / buckets, to = (bucket + 1) * count / buckets;
        size_t low = from, high = from;
        for (size_t i = from; i < to; ++i) {
            if (!std::isfinite(series.y[i])) continue;
            if (!std::isfinite(series.y[low]) || series.y[i] < series.y[low]) low = i;
            if (!std::isfinite(series.y[high]) || series.y[i] > series.y[high]) high = i;
        }
        for (const size_t i : {std::min(low, high), std::max(low, high)}) {
            out.x.push_back(series.x[i]);
            out.y.push_back(series.y[i]);
        }
    }
    return out;
}

std::string line_chart_svg(const LineChart& chart) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
    for (const Series& series : chart.series) {
        for (size_t i = 0; i < series.x.size(); ++i) {
            if (!std::isfinite(series.y[i]) || (chart.logarithmic && series.y[i] <= 0)) continue;
            x_low = std::min(x_low, series.x[i]);
            x_high = std::max(x_high, series.x[i]);
            y_low = std::min(y_low, series.y[i]);
            y_high = std::max(y_high, series.y[i]);
        }
    }
    if (!(x_low <= x_high)) return empty_svg("nothing recorded");
    const double width = chart.wide ? kWide : kNarrow;
    const double height = chart.wide ? kHeight * 1.35 : kHeight;
    const double bottom = height - kBottom;
    Axis x{x_low, x_high > x_low ? x_high : x_low + 1, kLeft, width - kRight, false};
    const Axis y = fitted(y_low, y_high, bottom, kTop, chart.logarithmic, chart.from_zero);
    std::string svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\">", width, height);
    for (const double tick : ticks_of(y, 5)) {
        svg += fmt::format(
            "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
            "<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{}</text>",
            kLeft, width - kRight, y.at(tick), y.at(tick), kLeft - 8, y.at(tick) + 4,
            human_number(tick));
    }
    svg += x_axis(x, bottom, chart.wide ? 12 : 7);
    for (const Series& series : chart.series) svg += polylines(thinned(series, 500), x, y);
    svg += "</svg>";
    std::string legend;
    for (const Series& series : chart.series) {
        if (series.name.empty()) continue;
        legend += fmt::format("<span class=\"key {}\">{}</span>", series.css_class,
                              html_escape(series.name));
    }
    return legend.empty() ? svg : svg + "<div class=\"legend\">" + legend + "</div>";
}

std::string heat_map_svg(const HeatMap& map) {
    const size_t columns = map.rows.empty() ? 0 : map.rows[0].size();
    if (columns == 0) return empty_svg("nothing recorded");
    constexpr double kMapWidth = kWide, kMapRight = 62;
    const double row_height = std::clamp(220.0 / static_cast<double>(map.rows.size()), 6.0, 24.0);
    const double height = row_height * static_cast<double>(map.rows.size());
    const double cell = (kMapWidth - kLeft - kMapRight) / static_cast<double>(columns);
    std::string svg =
        fmt::format("<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" shape-rendering=\"crispEdges\">",
                    kMapWidth, kTop + height + kBottom);
    const size_t name_every = static_cast<size_t>(std::ceil(14.0 / row_height));
    for (size_t row = 0; row < map.rows.size(); ++row) {
        const double top = kTop + row_height * static_cast<double>(row);
        if (row % name_every == 0) {
            svg += fmt::format(
                "<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{}</text>",
                kLeft - 8, top + row_height / 2 + 4, html_escape(map.row_names[row]));
        }
        for (size_t column = 0; column < columns; ++column) {
            const double value = map.rows[row][column];
            if (!std::isfinite(value)) continue;
            svg += fmt::format(
                "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\">"
                "<title>{}, {}: {}</title></rect>",
                kLeft + cell * static_cast<double>(column), top, cell, row_height,
                heat_colour(map, value), html_escape(map.row_names[row]),
                human_number(map.first_x + (map.last_x - map.first_x) *
                                               static_cast<double>(column) /
                                               std::max(1.0, static_cast<double>(columns - 1))),
                human_number(value));
        }
    }
    const Axis x{map.first_x, std::max(map.last_x, map.first_x + 1), kLeft + cell / 2,
                 kMapWidth - kMapRight - cell / 2, false};
    svg += x_axis(x, kTop + height, 12);
    svg += fmt::format("<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{}</text>",
                       kLeft - 8, kTop + height + 17, html_escape(map.x_name));
    svg += heat_legend(map, kMapWidth - kMapRight + 12, kTop, height);
    return svg + "</svg>";
}

}  // namespace fucina
