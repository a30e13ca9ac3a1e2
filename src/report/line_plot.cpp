#include "report/line_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/progress.h"

namespace keiko::report {
namespace {

constexpr double kLeft = 56, kTop = 54, kWidth = 560, kHeight = 280;

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
  }
  return out;
}

double at_y(double share) { return kTop + kHeight * (1 - std::clamp(share, 0.0, 1.0)); }

}  // namespace

std::string share_plot(const std::string& title, const std::string& subtitle,
                       const std::string& x_name, const std::vector<double>& xs,
                       const std::vector<Line>& lines) {
  const double bottom = kTop + kHeight, right = kLeft + kWidth;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0f}\" height=\"{:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"{:.0f}\" y=\"20\" font-weight=\"bold\">{}</text>\n"
      "<text x=\"{:.0f}\" y=\"38\" fill=\"#555\">{}</text>\n",
      right + 30, bottom + 56 + 18.0 * double(lines.size()), kLeft, escaped(title), kLeft,
      escaped(subtitle));
  for (int percent = 0; percent <= 100; percent += 20) {
    const double y = at_y(percent / 100.0);
    out += fmt::format(
        "<line x1=\"{0:.0f}\" y1=\"{1:.1f}\" x2=\"{2:.0f}\" y2=\"{1:.1f}\" stroke=\"#ddd\"/>"
        "<text x=\"{3:.0f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}%</text>\n",
        kLeft, y, right, kLeft - 6, y + 4, percent);
  }
  const auto at_x = [&](double x) {
    if (xs.size() < 2) return kLeft + kWidth / 2;
    return kLeft + 14 + (kWidth - 28) * std::log(x / xs.front()) / std::log(xs.back() / xs.front());
  };
  for (double x : xs)
    out += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1:.0f}\" x2=\"{0:.1f}\" y2=\"{2:.0f}\" stroke=\"#888\"/>"
        "<text x=\"{0:.1f}\" y=\"{3:.0f}\" text-anchor=\"middle\">{4}</text>\n",
        at_x(x), bottom, bottom + 5, bottom + 19, count_text(int64_t(std::llround(x))));
  out += fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">{}</text>\n",
                     kLeft + kWidth / 2, bottom + 38, escaped(x_name));
  double legend = bottom + 58;
  for (const Line& line : lines) {
    std::string path, dots;
    for (size_t i = 0; i < std::min(xs.size(), line.shares.size()); ++i) {
      const double x = at_x(xs[i]), y = at_y(line.shares[i]);
      path += fmt::format("{}{:.1f},{:.1f}", i == 0 ? "" : " ", x, y);
      dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>", x, y,
                          line.colour);
    }
    out += fmt::format(
        "<polyline points=\"{0}\" fill=\"none\" stroke=\"{1}\" stroke-width=\"2\"/>{2}\n"
        "<line x1=\"{3:.0f}\" y1=\"{4:.0f}\" x2=\"{5:.0f}\" y2=\"{4:.0f}\" stroke=\"{1}\" "
        "stroke-width=\"2\"/><text x=\"{6:.0f}\" y=\"{7:.0f}\">{8}</text>\n",
        path, line.colour, dots, kLeft, legend - 4, kLeft + 24, kLeft + 32, legend,
        escaped(line.name));
    legend += 18;
  }
  return out + "</svg>\n";
}

}  // namespace keiko::report
