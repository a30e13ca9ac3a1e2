#include "report/run_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "report/metrics.h"

namespace keiko::report {
namespace {

constexpr const char* kColors[] = {"#1f77b4", "#d62728", "#2ca02c",
                                   "#9467bd", "#ff7f0e", "#8c564b"};

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

// Round steps of 1, 2 or 5 times a power of ten that cut [low, high] into about five parts.
std::vector<double> ticks(double low, double high) {
  const double raw = (high - low) / 5;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = power * 10;
  for (double factor : {1.0, 2.0, 5.0})
    if (raw <= factor * power) {
      step = factor * power;
      break;
    }
  std::vector<double> out;
  for (double t = std::ceil(low / step) * step; t <= high + step * 1e-9; t += step)
    out.push_back(t);
  return out;
}

}  // namespace

std::string svg_chart(const std::string& title, const std::string& x_name,
                      const std::vector<Curve>& curves) {
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (const Curve& curve : curves)
    for (const auto& [x, y] : curve.points) {
      if (!std::isfinite(y)) continue;
      x0 = std::min(x0, x);
      x1 = std::max(x1, x);
      y0 = std::min(y0, y);
      y1 = std::max(y1, y);
    }
  if (x0 > x1) return "";
  if (x1 == x0) x1 = x0 + 1;
  if (y1 == y0) y1 = y0 + 1;
  const double w = 640, h = 300, left = 60, right = 16, top = 34, bottom = 40;
  auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * (w - left - right); };
  auto py = [&](double y) { return h - bottom - (y - y0) / (y1 - y0) * (h - top - bottom); };
  std::string svg = fmt::format(
      "<svg viewBox='0 0 {} {}' width='{}' font-family='sans-serif' font-size='12'>"
      "<text x='{}' y='20' font-size='14' font-weight='bold'>{}</text>",
      w, h, w, left, escape(title));
  for (double t : ticks(x0, x1))
    svg += fmt::format(
        "<line x1='{0}' x2='{0}' y1='{1}' y2='{2}' stroke='#eee'/>"
        "<text x='{0}' y='{3}' text-anchor='middle'>{4:g}</text>",
        px(t), top, h - bottom, h - bottom + 15, t);
  for (double t : ticks(y0, y1))
    svg += fmt::format(
        "<line x1='{1}' x2='{2}' y1='{0}' y2='{0}' stroke='#eee'/>"
        "<text x='{3}' y='{0}' dy='4' text-anchor='end'>{4:g}</text>",
        py(t), left, w - right, left - 6, std::abs(t) < 1e-12 ? 0.0 : t);
  svg += fmt::format("<text x='{}' y='{}' text-anchor='middle'>{}</text>", (left + w - right) / 2,
                     h - 8, escape(x_name));
  double legend = w - right;
  for (size_t i = curves.size(); i-- > 0;) {
    const char* color = kColors[i % 6];
    std::string points;
    for (const auto& [x, y] : curves[i].points)
      if (std::isfinite(y)) points += fmt::format("{:.1f},{:.1f} ", px(x), py(y));
    svg += fmt::format("<polyline points='{}' fill='none' stroke='{}' stroke-width='1.5'/>", points,
                       color);
    svg += fmt::format("<text x='{}' y='20' text-anchor='end' fill='{}'>{}</text>", legend, color,
                       escape(curves[i].name));
    legend -= 14 + 7 * double(curves[i].name.size());
  }
  return svg + "</svg>";
}

void write_run_page(Env* env, const std::string& run_folder) {
  const auto lines = read_json_lines(env, run_folder + "/metrics.jsonl");
  auto curve = [&](const std::string& kind, const std::string& field, const std::string& name) {
    Curve c{name, {}};
    for (const auto& line : lines)
      if (line.value("kind", "") == kind && line.contains(field) && line[field].is_number())
        c.points.emplace_back(line.value("step", 0.0), line[field].get<double>());
    return c;
  };
  std::string body =
      "<h1>" + escape(std::filesystem::path(run_folder).filename().string()) + "</h1>";
  std::vector<Curve> losses = {curve("train", "loss", "train")};
  if (Curve held_out = curve("eval", "loss", "held-out"); !held_out.points.empty())
    losses.push_back(held_out);
  body += svg_chart("loss", "step", losses);
  for (const auto& [key, title] :
       {std::pair("top1", "top-1 accuracy"), std::pair("map", "mean average precision"),
        std::pair("r2", "R²")})
    if (Curve held_out = curve("eval", key, "held-out"); !held_out.points.empty())
      body += svg_chart(title, "step", {held_out});
  body += svg_chart("learning rate", "step", {curve("train", "lr", "lr")});
  body += svg_chart("gradient norm", "step", {curve("train", "grad_norm", "norm before clipping")});
  body += svg_chart("clips a second", "step", {curve("train", "clips_per_s", "all ranks")});
  for (auto line = lines.rbegin(); line != lines.rend(); ++line)
    if (line->value("kind", "") == "eval") {
      body += "<h2>Last evaluation</h2><table>";
      for (const auto& [key, value] : line->items())
        body += "<tr><td>" + escape(key) + "</td><td>" + escape(value.dump()) + "</td></tr>";
      body += "</table>";
      break;
    }
  if (env->status(run_folder + "/previews").exists) {
    body += "<h2>Pictures</h2>";
    for (const std::string& name : env->list(run_folder + "/previews"))
      if (name.size() > 4 && name.substr(name.size() - 4) == ".png")
        body += fmt::format("<figure><img src='previews/{0}'><figcaption>{0}</figcaption></figure>",
                            escape(name));
  }
  body += "<h2>Recipe</h2><pre>" + escape(read_text(env, run_folder + "/recipe.yaml")) + "</pre>";
  env->create(run_folder + "/report.html")
      ->append(
          "<!doctype html><meta charset='utf-8'><title>Keiko run</title><style>body{font-family:"
          "sans-serif;max-width:1000px;margin:2em auto}img{image-rendering:pixelated;max-width:"
          "100%}td{padding:2px 12px 2px 0}</style>" +
          body + "\n");
}

}  // namespace keiko::report
