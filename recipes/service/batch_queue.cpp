#include "recipes/service/batch_queue.h"

#include <algorithm>

namespace conclave::service {

bool go_together(const Query& a, const Query& b) {
  if (a.experts || b.experts) return false;  // experts are counted by the batch
  const auto of_classes = [](TaskKind task) { return task == TaskKind::classify || task == TaskKind::embed; };
  if (of_classes(a.task) && of_classes(b.task)) return true;
  if (a.task != b.task) return false;
  if (a.task == TaskKind::generate)
    return a.sampling.steps == b.sampling.steps && a.sampling.guidance == b.sampling.guidance;
  // What is drawn for an image depends on its number in the batch.
  return a.caption.top_p == 0 && b.caption.top_p == 0 && a.caption.beam == b.caption.beam &&
         a.caption.length_penalty == b.caption.length_penalty && a.caption.max_tokens == b.caption.max_tokens;
}

BatchQueue::BatchQueue(const BatchLimits& limits) : limits_(limits) {
  require(limits.rows >= 1 && limits.jobs >= 1 && limits.waiting >= 1,
          "batches of at most {} rows and {} queries, of which {} may wait: 1 is the least of each",
          limits.rows, limits.jobs, limits.waiting);
  waiting_.reserve(static_cast<std::size_t>(limits.waiting));
}

bool BatchQueue::push(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || std::ssize(waiting_) >= limits_.waiting) return false;
    const bool idle = waiting_.empty() && !at_work_;
    if (limits_.latency > 0 && !idle && seconds_until(job) > limits_.latency) return false;
    waiting_.push_back(&job);
  }
  changed_.notify_one();
  return true;
}

bool BatchQueue::next(std::vector<Job*>& batch) {
  batch.clear();
  std::unique_lock lock(mutex_);
  at_work_ = false;  // also where a batch failed, and nobody told how long it took
  changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
  if (waiting_.empty()) return false;
  const Query& first = waiting_.front()->query;
  task_ = first.task, rows_ = 0, at_work_ = true, began_ = Clock::now();
  std::erase_if(waiting_, [&](Job* job) {
    const bool fits = batch.empty() || (std::ssize(batch) < limits_.jobs &&
                                        rows_ + job->rows <= limits_.rows && go_together(first, job->query));
    if (!fits) return false;
    batch.push_back(job);
    rows_ += job->rows;
    return true;
  });
  return true;
}

double BatchQueue::seconds_of(TaskKind task, std::int64_t rows) const {
  return seconds_per_row_[static_cast<std::size_t>(task)] * static_cast<double>(rows);
}

// Of a job that is the last to be answered of those there are.
double BatchQueue::seconds_until(const Job& job) const {
  double sum = seconds_of(job.query.task, job.rows);
  for (const Job* other : waiting_) sum += seconds_of(other->query.task, other->rows);
  if (at_work_) sum += std::max(0.0, seconds_of(task_, rows_) - seconds_since(began_));
  return sum;
}

void BatchQueue::took(double seconds) {
  const std::lock_guard lock(mutex_);
  at_work_ = false;
  double& pace = seconds_per_row_[static_cast<std::size_t>(task_)];
  const double now = seconds / static_cast<double>(std::max<std::int64_t>(rows_, 1));
  pace = pace == 0 ? now : 0.9 * pace + 0.1 * now;
}

void BatchQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (Job* job : waiting_)
      job->answered.set_exception(
          std::make_exception_ptr(Refusal(503, "draining", "the service ended before it came to this")));
    waiting_.clear();
  }
  changed_.notify_all();
}

bool BatchQueue::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

std::size_t BatchQueue::waiting() const {
  const std::lock_guard lock(mutex_);
  return waiting_.size();
}

}  // namespace conclave::service
