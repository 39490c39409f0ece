// The last of the service's layers: an Answer becomes bytes for the wire. A writer for each form; another is
// a subclass of AnswerWriter more.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/service/query.h"

namespace conclave::service {

class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  virtual std::string_view name() const = 0;  ///< as in ?format=json
  virtual std::string_view type() const = 0;  ///< as in Accept: application/json
  virtual bool writes(TaskKind task) const = 0;
  virtual std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const = 0;
};

/// {"task": ..., ...}; images as PNG in base64.
class JsonWriter : public AnswerWriter {
 public:
  std::string_view name() const override { return "json"; }
  std::string_view type() const override { return "application/json"; }
  bool writes(TaskKind /*task*/) const override { return true; }
  std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const override;
};

/// Of classes, a line each; of captions and embeddings, one (RFC 4180).
class CsvWriter : public AnswerWriter {
 public:
  std::string_view name() const override { return "csv"; }
  std::string_view type() const override { return "text/csv"; }
  bool writes(TaskKind task) const override { return task != TaskKind::generate; }
  std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const override;
};

/// What was drawn, in a grid where there are several.
class PngWriter : public AnswerWriter {
 public:
  std::string_view name() const override { return "png"; }
  std::string_view type() const override { return "image/png"; }
  bool writes(TaskKind task) const override { return task == TaskKind::generate; }
  std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const override;
};

class Outputs {
 public:
  /// Of JSON, CSV and PNG.
  Outputs();
  void add(std::unique_ptr<AnswerWriter> writer) { writers_.push_back(std::move(writer)); }

  /// The writer by name, where one is asked for, else the first that `accept`, a header as RFC 9110 has it,
  /// likes best; JSON where anything will do. Throws Refusal with status 400 or 406.
  const AnswerWriter& choose(TaskKind task, std::string_view format, std::string_view accept) const;

 private:
  std::vector<std::unique_ptr<AnswerWriter>> writers_;
};

/// {"model": ..., "tasks": [...], "classes": [...]}
std::string facts_text(const ModelFacts& model);
/// {"error": {"code": ..., "message": ...}}, whatever bytes they have.
std::string error_text(std::string_view code, std::string_view message);

}  // namespace conclave::service
