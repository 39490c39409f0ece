#include "recipes/service/batch_queue.h"

#include <algorithm>
#include <utility>

namespace conclave::service {

namespace {

// Longest time to wait for followers, as a share of the time of the batch that they follow.
constexpr double kFollowingShare = 0.25;
// Share of the answers that must have had followers. If queries come independently of answers, it is at most
// kFollowingShare, as long as the engine keeps up with them.
constexpr double kFollowed = 0.5;

// Whether one batch can answer the query and all others for which this holds.
bool joins(const Query& query) { return !takes_steps(query.task) && !query.experts; }

std::int64_t count_joining(const std::vector<Job*>& jobs) {
  return std::ranges::count_if(jobs, [](const Job* job) { return joins(job->query); });
}

}  // namespace

bool go_together(const Query& a, const Query& b) {
  if (joins(a) && joins(b)) return true;
  if (a.experts || b.experts) return false;  // expert use is counted per batch, not per query
  if (a.task != b.task) return false;
  switch (a.task) {
    case TaskKind::classify:
    case TaskKind::embed:
      break;
    case TaskKind::caption:
      // With top_p, the random numbers for an image depend on its index in the batch.
      return a.caption.top_p == 0 && b.caption.top_p == 0 && a.caption.beam == b.caption.beam &&
             a.caption.length_penalty == b.caption.length_penalty &&
             a.caption.max_tokens == b.caption.max_tokens;
    case TaskKind::generate:
      return a.sampling.steps == b.sampling.steps && a.sampling.guidance == b.sampling.guidance;
  }
  return true;
}

BatchQueue::BatchQueue(const BatchLimits& limits)
    : limits_(limits),
      client_gone_(std::make_exception_ptr(client_gone())),
      draining_(
          std::make_exception_ptr(Refusal(503, "draining", "the service ended before it answered this"))) {
  require(
      limits.rows >= 1 && limits.jobs >= 1 && limits.waiting >= 1,
      "batches of at most {} rows and {} queries, with at most {} waiting queries: each must be 1 or more",
      limits.rows, limits.jobs, limits.waiting);
  waiting_.reserve(static_cast<std::size_t>(limits.waiting));
}

bool BatchQueue::push(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    drop_forsaken();
    if (closed_ || std::ssize(waiting_) >= limits_.waiting) return false;
    const bool idle = waiting_.empty() && !at_once_.unfinished && !in_steps_.unfinished;
    if (limits_.latency > 0 && !idle && seconds_until(job) > limits_.latency) return false;
    waiting_.push_back(&job);
    if (joins(job.query) && Clock::now() < followers_.until) ++followers_.came;
    if (!is_gathered()) return true;
  }
  changed_.notify_one();
  return true;
}

EngineBatch* BatchQueue::next() {
  std::unique_lock lock(mutex_);
  settle_step();
  end_forsaken_batch();
  if (followers_.until == Clock::time_point::max())
    followers_.until = Clock::now() + seconds(followers_.time);
  await_query(lock);
  gather(lock);
  await_query(lock);
  auto first = waiting_.begin();
  if (in_steps_.unfinished)
    first = owes_step_ || owes_ > 0 ? waiting_.end() : std::ranges::find_if(waiting_, [](const Job* job) {
      return !takes_steps(job->query.task);
    });
  else if (waiting_.empty())
    return nullptr;
  at_work_ = first == waiting_.end() ? &in_steps_ : &begin(**first);
  began_ = Clock::now();
  return &at_work_->batch;
}

void BatchQueue::await_query(std::unique_lock<std::mutex>& lock) {
  for (drop_forsaken(); !in_steps_.unfinished && waiting_.empty() && !closed_; drop_forsaken())
    changed_.wait(lock);
}

// Waits until as many queries are there as when the latest batch was answered, or their time is over.
void BatchQueue::gather(std::unique_lock<std::mutex>& lock) {
  if (in_steps_.unfinished || followers_.came < kFollowed * followers_.answers) return;
  awaited_ = std::min({followers_.crowd, limits_.jobs, limits_.waiting});
  changed_.wait_until(lock, followers_.until, [&] { return closed_ || is_gathered(); });
  awaited_ = 1;
}

// Whether the next batch should begin: as many queries are there as are awaited, or some that cannot go with
// the others. `with`: as if this one were there, too.
bool BatchQueue::is_gathered(const Job* with) const {
  std::int64_t jobs = 0, rows = 0;
  const auto completes = [&](const Job& job) {
    rows += job.rows;
    return ++jobs >= awaited_ || rows >= limits_.rows || !joins(job.query);
  };
  return std::ranges::any_of(waiting_, [&](const Job* job) { return completes(*job); }) ||
         (with && completes(*with));
}

void BatchQueue::drop_forsaken() {
  std::erase_if(waiting_, [&](Job* job) {
    if (!job->is_forsaken()) return false;
    job->done(client_gone_);
    return true;
  });
}

// The engine then begins another batch in its place. To be called between steps.
void BatchQueue::end_forsaken_batch() {
  if (!in_steps_.unfinished || !std::ranges::all_of(in_steps_.batch.jobs, &Job::is_forsaken)) return;
  for (Job* job : in_steps_.batch.jobs) job->done(client_gone_);
  in_steps_.unfinished = in_steps_.batch.under_way = owes_step_ = false;
  owes_ = 0;
}

void BatchQueue::end_step() {
  const std::lock_guard lock(mutex_);
  settle_step();
}

void BatchQueue::settle_step() {
  if (!at_work_) return;
  Work& work = *std::exchange(at_work_, nullptr);
  const double seconds = work.batch.work.seconds - work.seconds;  // 0 if the step failed
  work.seconds += seconds;
  work.unfinished = work.batch.under_way;
  const bool at_once = &work == &at_once_;
  owes_step_ = at_once && in_steps_.unfinished;
  owes_ = in_steps_.unfinished ? std::max(0.0, owes_ + (at_once ? seconds : -seconds)) : 0;
  if (owes_step_) in_steps_.between += seconds;
  if (seconds <= 0) return;
  learn(seconds_per_step_, work.task, seconds);
  if (work.unfinished) return;
  note_answers(work);
  learn(seconds_per_row_, work.task,
        (work.seconds + work.between) / static_cast<double>(std::max<std::int64_t>(work.cost, 1)));
}

void BatchQueue::note_answers(const Work& work) {
  const std::int64_t answers = count_joining(work.batch.jobs);
  if (answers == 0) return;
  // A full batch is as large as the next one can be.
  followers_.crowd = answers + (work.full ? 0 : count_joining(waiting_));
  followers_.answers = 0.9 * followers_.answers + static_cast<double>(answers);
  followers_.came *= 0.9;
  followers_.time = kFollowingShare * work.seconds;
  followers_.until = Clock::time_point::max();  // until next(), before which the answers are sent
}

void BatchQueue::learn(Pace& pace, TaskKind task, double seconds) {
  double& lately = pace[static_cast<std::size_t>(task)];
  lately = lately == 0 ? seconds : 0.9 * lately + 0.1 * seconds;
}

BatchQueue::Work& BatchQueue::begin(const Job& first) {
  const TaskKind task = first.query.task;
  Work& work = takes_steps(task) ? in_steps_ : at_once_;
  std::vector<Job*>& jobs = work.batch.jobs;
  jobs.clear();
  work.batch.work = {};
  work.unfinished = true, work.task = task, work.rows = work.cost = 0, work.seconds = work.between = 0;
  std::erase_if(waiting_, [&](Job* job) {
    const bool fits =
        job == &first || (std::ssize(jobs) < limits_.jobs && work.rows + job->rows <= limits_.rows &&
                          go_together(first.query, job->query));
    if (!fits) return false;
    jobs.push_back(job);
    work.rows += job->rows;
    work.cost += job->cost;
    return true;
  });
  work.full = joins(first.query) && count_joining(waiting_) > 0;
  return work;
}

double BatchQueue::seconds_of(TaskKind task, std::int64_t cost) const {
  return seconds_per_row_[static_cast<std::size_t>(task)] * static_cast<double>(cost);
}

double BatchQueue::seconds_left(const Work& work) const {
  if (!work.unfinished) return 0;
  const double now = at_work_ == &work ? seconds_since(began_) : 0;
  return std::max(0.0, seconds_of(work.task, work.cost) - work.seconds - work.between - now);
}

// Time of the multi-step batch's steps that run before `job`, a single-step job. `seconds`: time of the
// single-step work ahead of `job`.
double BatchQueue::seconds_between(const Job& job, double seconds) const {
  const auto other =
      std::ranges::find_if(waiting_, [](const Job* one) { return takes_steps(one->query.task); });
  if (!in_steps_.unfinished && other == waiting_.end()) return 0;
  const TaskKind task = in_steps_.unfinished ? in_steps_.task : (*other)->query.task;
  const double step = seconds_per_step_[static_cast<std::size_t>(task)];
  // A job that reports its experts is a batch by itself.
  std::int64_t alone = 0, jobs = 0, rows = job.query.experts ? 0 : job.rows - 1;
  for (const Job* one : waiting_) {
    if (takes_steps(one->query.task)) continue;
    if (one->query.experts)
      ++alone;
    else
      ++jobs, rows += one->rows;
  }
  const auto batches = static_cast<double>(alone + std::max(jobs / limits_.jobs, rows / limits_.rows));
  const double now = at_work_ ? seconds_since(began_) : 0, taken = at_work_ == &in_steps_ ? now : 0;
  const double owed = std::max(0.0, owes_ + (at_work_ == &at_once_ ? now : -taken));
  return std::max(seconds + owed, batches * step) + std::max(0.0, step - taken);
}

// Estimated seconds until `job` is answered, if it is pushed now. A multi-step job waits for all other jobs,
// a single-step job for the single-step jobs and for the steps between them.
double BatchQueue::seconds_until(const Job& job) const {
  const bool in_steps = takes_steps(job.query.task);
  double before = seconds_left(at_once_);
  if (awaited_ > 1 && !is_gathered(&job)) before += std::max(0.0, -seconds_since(followers_.until));
  for (const Job* other : waiting_)
    if (in_steps || !takes_steps(other->query.task)) before += seconds_of(other->query.task, other->cost);
  return seconds_of(job.query.task, job.cost) + before +
         (in_steps ? seconds_left(in_steps_) : seconds_between(job, before));
}

void BatchQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (Job* job : waiting_) job->done(draining_);
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
