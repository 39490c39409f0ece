#include "recipes/service/batch_queue.h"

#include <algorithm>

namespace conclave::service {

bool go_together(const Query& a, const Query& b) {
  if (a.experts || b.experts) return false;  // experts are counted by the batch
  if (!takes_steps(a.task) && !takes_steps(b.task)) return true;
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
    const bool idle = waiting_.empty() && !at_once_.unfinished && !in_steps_.unfinished;
    if (limits_.latency > 0 && !idle && seconds_until(job) > limits_.latency) return false;
    waiting_.push_back(&job);
  }
  changed_.notify_one();
  return true;
}

EngineBatch* BatchQueue::next() {
  std::unique_lock lock(mutex_);
  const bool after_step = at_work_ == &in_steps_;
  end_step();
  if (!in_steps_.unfinished) changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
  const auto takes_one = [](const Job* job) { return !takes_steps(job->query.task); };
  auto first = after_step ? std::ranges::find_if(waiting_, takes_one) : waiting_.end();
  if (first == waiting_.end() && !in_steps_.unfinished) {
    if (waiting_.empty()) return nullptr;
    first = waiting_.begin();
  }
  at_work_ = first == waiting_.end() ? &in_steps_ : &begin(**first);
  began_ = Clock::now();
  return &at_work_->batch;
}

void BatchQueue::learn(Pace& pace, TaskKind task, double seconds) {
  double& lately = pace[static_cast<std::size_t>(task)];
  lately = lately == 0 ? seconds : 0.9 * lately + 0.1 * seconds;
}

// Also that of a batch that failed, of which nobody told how long it took.
void BatchQueue::end_step() {
  if (!at_work_) return;
  const double seconds = seconds_since(began_);
  learn(seconds_per_step_, at_work_->task, seconds);
  at_work_->seconds += seconds;
  at_work_->unfinished = at_work_->batch.under_way;
  at_work_ = nullptr;
}

BatchQueue::Work& BatchQueue::begin(const Job& first) {
  const TaskKind task = first.query.task;
  Work& work = takes_steps(task) ? in_steps_ : at_once_;
  std::vector<Job*>& jobs = work.batch.jobs;
  jobs.clear();
  work.batch.work = {};
  work.unfinished = true, work.task = task, work.rows = 0, work.seconds = 0;
  std::erase_if(waiting_, [&](Job* job) {
    const bool fits =
        job == &first || (std::ssize(jobs) < limits_.jobs && work.rows + job->rows <= limits_.rows &&
                          go_together(first.query, job->query));
    if (!fits) return false;
    jobs.push_back(job);
    work.rows += job->rows;
    return true;
  });
  return work;
}

double BatchQueue::seconds_of(TaskKind task, std::int64_t rows) const {
  return seconds_per_row_[static_cast<std::size_t>(task)] * static_cast<double>(rows);
}

double BatchQueue::seconds_left(const Work& work) const {
  if (!work.unfinished) return 0;
  const double now = at_work_ == &work ? seconds_since(began_) : 0;
  return std::max(0.0, seconds_of(work.task, work.rows) - work.seconds - now);
}

// Of a job that is the last to be answered of those there are, or of those that take one step. Before each
// batch of the latter the one in steps takes one.
double BatchQueue::seconds_until(const Job& job) const {
  const bool in_steps = takes_steps(job.query.task);
  double sum = seconds_of(job.query.task, job.rows) + seconds_left(at_once_);
  std::int64_t jobs = 0, rows = job.rows;
  for (const Job* other : waiting_) {
    if (!in_steps && takes_steps(other->query.task)) continue;
    sum += seconds_of(other->query.task, other->rows);
    ++jobs, rows += other->rows;
  }
  if (in_steps) return sum + seconds_left(in_steps_);
  if (!in_steps_.unfinished) return sum;
  const double step = seconds_per_step_[static_cast<std::size_t>(in_steps_.task)],
               taken = at_work_ == &in_steps_ ? seconds_since(began_) : 0;
  const auto batches = static_cast<double>(std::max(jobs / limits_.jobs, (rows - 1) / limits_.rows));
  return sum + batches * step + std::max(0.0, step - taken);
}

void BatchQueue::took(double seconds) {
  const std::lock_guard lock(mutex_);
  at_work_->unfinished = false;
  learn(seconds_per_row_, at_work_->task,
        seconds / static_cast<double>(std::max<std::int64_t>(at_work_->rows, 1)));
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
