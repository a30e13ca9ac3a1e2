// A chart of a few lines as SVG text, for pages and documents: no library draws it, any browser
// shows it.

#pragma once
#include <string>
#include <vector>

namespace keiko::report {

struct Line {
  std::string name;            // in the legend
  std::string colour;          // as SVG has it: "#2471a3"
  std::vector<double> shares;  // one for each x, in [0, 1]; others are drawn at the edge
};

// Lines over `xs` (> 0, ascending), which are placed by their logarithm and written below, in whole
// numbers. Percent stand at the side; `title` is one short line, `subtitle` a longer one below it.
// Deterministic.
std::string share_plot(const std::string& title, const std::string& subtitle,
                       const std::string& x_name, const std::vector<double>& xs,
                       const std::vector<Line>& lines);

}  // namespace keiko::report
