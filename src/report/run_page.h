// report.html: one self-contained page that shows a run: its figures, curves and pictures.

#pragma once
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::report {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending
};

// A line chart as SVG, with axes, ticks and a legend.
std::string svg_chart(const std::string& title, const std::string& x_name,
                      const std::vector<Curve>& curves);

// Reads `run_folder`'s metrics.jsonl, recipe.yaml and previews/*.png and (re)writes its
// report.html. Throws Error(kIo).
void write_run_page(Env* env, const std::string& run_folder);

}  // namespace keiko::report
