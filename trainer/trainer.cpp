#include "trainer/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "parallel/agreement.h"
#include "parallel/host_name.h"
#include "trainer/evaluator.h"
#include "trainer/fault_point.h"
#include "trainer/grad_accumulator.h"
#include "trainer/manifest.h"
#include "trainer/pass_batch.h"
#include "trainer/replica_check.h"
#include "trainer/seconds_since.h"

namespace fucina {
namespace {

constexpr int64_t kFailedSavesLimit = 3;

// A NaN's sign says nothing.
std::string number_text(double value) {
    return std::isnan(value) ? "nan" : fmt::format("{}", value);
}

}  // namespace

Trainer::Trainer(TrainingRun run, Console& console)
    : run_(std::move(run)),
      communicator_(run_.mesh->world()),
      saves_(communicator_.split(0)),
      saver_(*saves_, run_.recipe.checkpoint().snapshot() << 20),
      console_(console),
      runner_(run_.recipe,
              {.mesh = *run_.mesh,
               .model = *run_.model,
               .optimizer = *run_.optimizer,
               .loader = *run_.data.train,
               .before_update = [this] { before_update(); },
               .snapshot = snapshot_bytes(run_.state(), run_.mesh->shape(), communicator_.rank(),
                                          run_.recipe.checkpoint().snapshot() << 20)}),
      line_(run_.recipe.train().steps()),
      peak_(run_.recipe.train(), communicator_.size()),
      balance_(run_.model->spec(), run_.recipe.train().router_bias_update(),
               run_.recipe.train().learning_rate()),
      stragglers_(gather_texts(communicator_, host_name()), run_.mesh->shape().stage_ranks()) {
    for (const Pass& pass : runner_.memory().passes) own_grains_ += pass.grains.count();
    if (run_.data.tokenizer) token_bytes_ = run_.data.tokenizer->token_bytes();
    samples_ = std::make_unique<SampleWriter>(communicator_, run_.path / "samples.jsonl", run_.step,
                                              run_.data);
    if (communicator_.rank() != 0) return;
    fault_point("metrics.open", 0);
    metrics_ = std::make_unique<MetricsFile>((run_.path / "metrics.jsonl").string(), run_.step);
    tensorboard_ =
        std::make_unique<TensorBoardWriter>((run_.path / "tensorboard").string(), run_.step);
}

ExitCode Trainer::train() {
    show_memory(false);
    const int64_t first = run_.step + 1, last = run_.recipe.train().steps();
    for (int64_t s = first; s <= last; ++s) {
        step();
        const auto [asked, save_waits] = requests();
        if (saver_.under_way() && !save_waits) advance_save();
        const bool saves = asked.save || asked.stop || due(run_.recipe.checkpoint().every());
        if (saves || due(run_.recipe.train().check_replicas())) check_replicas();
        if (saves) start_save();
        if (asked.stop && s < last) {
            finish_save();
            show_memory(true);
            return ExitCode::stopped;
        }
    }
    finish_save();
    if (failed_saves_ > 0) {
        fail(ExitCode::storage, run_.path.string(), ": the last step could not be saved");
    }
    show_memory(true);
    return ExitCode::ok;
}

void Trainer::show_memory(bool measured) {
    for (const std::string& line : memory_table(runner_.memory(), communicator_.exec(), measured))
        console_.line(line);
}

// After every `every` steps, and at the end.
bool Trainer::due(int64_t every) const {
    return run_.step == run_.recipe.train().steps() || (every > 0 && run_.step % every == 0);
}

void Trainer::step() {
    const auto start = std::chrono::steady_clock::now();
    const int64_t first_sample = run_.next_sample;
    communicator_.progress(Phase::load, run_.step + 1);
    const double waited = communicator_.seconds_inside();
    const StepResult result = runner_.run(run_.step + 1, first_sample);
    const StepTime own{seconds_since(start), communicator_.seconds_inside() - waited};
    communicator_.progress(Phase::log);
    run_.step += 1;
    run_.next_sample += run_.recipe.train().global_batch();
    const StepTime time = watch_stragglers(own);
    make_faults();
    write_metrics(result, time);
    watch_non_finite(result, first_sample);
}

// The mean over ranks.
Trainer::StepTime Trainer::watch_stragglers(const StepTime& own) {
    if (communicator_.size() == 1) return own;
    const auto ranks = static_cast<size_t>(communicator_.size());
    const auto of_all = [&](double value) {
        std::vector<double> all(ranks);
        communicator_.all_gather(std::as_bytes(std::span(&value, 1)),
                                 std::as_writable_bytes(std::span(all)));
        return all;
    };
    const auto mean = [&](const std::vector<double>& values) {
        return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(ranks);
    };
    const double computed = own.all - own.exposed;
    const double a_grain = own_grains_ > 0 ? computed / static_cast<double>(own_grains_) : 0;
    if (const auto warning = stragglers_.after(run_.step, of_all(a_grain))) console_.line(*warning);
    return {mean(of_all(own.all)), mean(of_all(own.exposed))};
}

// Before a save too, so that a checkpoint holds no replica's error.
void Trainer::check_replicas() {
    if (communicator_.size() == 1 || run_.recipe.train().check_replicas() == 0) return;
    const std::string difference = replica_difference(*run_.mesh, run_.model->parameters());
    if (difference.empty()) return;
    finish_save();  // of a step after which they did not differ
    fail(ExitCode::replica_mismatch, "replicas differ after step ", run_.step, ": ", difference,
         "; a machine changed bits in memory or computes wrongly: leave it out, then `fucina "
         "resume ",
         run_.path.string(), "` goes on from the last checkpoint");
}

// What only tests ask for.
void Trainer::make_faults() {
    if (fault_here("step.flip", communicator_.rank())) {
        const Tensor master = run_.model->parameters().back()->master();
        edit_on_host(communicator_.exec(), master.as(DType::i32).slice(0, 1), [](const Tensor& x) {
            HostValues<int32_t>(kHost, x)[0] ^= 1 << 12;
        });  // of the mantissa
    }
    if (fault_here("step.extra_barrier", communicator_.rank())) communicator_.barrier();
}

void Trainer::write_metrics(const StepResult& result, const StepTime& time) {
    const Train& train = run_.recipe.train();
    StepMetrics metrics;
    metrics.step = run_.step;
    metrics.loss = result.loss;
    if (train.balance_loss() > 0) metrics.balance_loss = result.balance_loss;
    if (train.mtp_loss() > 0) metrics.mtp_loss = result.mtp_loss;
    metrics.grad_norm = result.grad_norm;
    metrics.lr = result.learning_rate;
    metrics.tokens = result.tokens;
    metrics.tokens_per_s = static_cast<double>(result.tokens) / time.all;
    if (communicator_.size() > 1) {
        metrics.compute_s = time.all - time.exposed;
        metrics.exposed_s = time.exposed;
    }
    for (const auto& layer : result.expert_counts) {
        metrics.expert_load.push_back(expert_load(layer));
    }
    if (train.expert_capacity() > 0) metrics.dropped = result.dropped;
    metrics.skipped = !result.finite;
    if (due(run_.recipe.eval().every())) {
        metrics.expert_counts = result.expert_counts;
        evaluate(metrics);
        communicator_.progress(Phase::log);
    }
    if (!metrics_) return;
    const double share = peak_.of(step_flops(*run_.model, result.tokens, result.pairs), time.all);
    console_.progress(line_.text(metrics, time.all, share));
    if (const auto warning = balance_.after(run_.step, result.expert_counts))
        console_.line(*warning);
    if (!metrics_->append(metrics)) console_.line("WARNING: metrics.jsonl could not be written");
    std::vector<std::pair<std::string, double>> scalars{{"loss", metrics.loss},
                                                        {"grad_norm", metrics.grad_norm},
                                                        {"lr", metrics.lr},
                                                        {"tokens_per_s", metrics.tokens_per_s},
                                                        {"peak_share", share}};
    if (metrics.mtp_loss) scalars.emplace_back("mtp_loss", *metrics.mtp_loss);
    if (metrics.balance_loss) scalars.emplace_back("balance_loss", *metrics.balance_loss);
    if (metrics.dropped) scalars.emplace_back("dropped", static_cast<double>(*metrics.dropped));
    if (metrics.compute_s) scalars.emplace_back("compute_s", *metrics.compute_s);
    if (metrics.exposed_s) scalars.emplace_back("exposed_s", *metrics.exposed_s);
    if (metrics.valid_loss) scalars.emplace_back("valid_loss", *metrics.valid_loss);
    if (metrics.valid_bits_per_byte)
        scalars.emplace_back("valid_bits_per_byte", *metrics.valid_bits_per_byte);
    for (size_t l = 0; l < metrics.expert_load.size(); ++l) {
        scalars.emplace_back(fmt::format("expert_load/{}", l), metrics.expert_load[l]);
    }
    tensorboard_->write(metrics.step, scalars);
}

void Trainer::evaluate(StepMetrics& metrics) {
    communicator_.progress(Phase::evaluate);
    fault_point("eval.samples", communicator_.rank());
    if (!samples_->write(metrics.step, *run_.model)) {
        console_.line("WARNING: samples.jsonl could not be written");
    }
    if (!run_.data.valid) return;
    fault_point("eval.loss", communicator_.rank());
    const HeldOutLoss loss = evaluate_loss(*run_.mesh, *run_.model, *run_.data.valid,
                                           run_.recipe.train().micro_batch(), token_bytes_);
    metrics.valid_loss = loss.nats_per_token;
    if (!std::isfinite(loss.nats_per_token))
        console_.line(
            concat("WARNING: step ", run_.step, ": the loss on data.valid is NaN or infinite"));
    metrics.valid_bits_per_byte = loss.bits_per_byte;
}

void Trainer::watch_non_finite(const StepResult& result, int64_t first_sample) {
    non_finite_ = result.finite ? 0 : non_finite_ + 1;
    if (result.finite) return;
    const int64_t batch = run_.recipe.train().global_batch();
    if (!result.outside.empty())
        console_.line(
            fmt::format("WARNING: step {}: a gradient of {} is not finite, or not below "
                        "{}, for which exact.sums = \"integers\" has room; \"tree\" has more",
                        run_.step, result.outside, grain_bound(plan_batch(run_.recipe, 1))));
    console_.line(
        fmt::format("WARNING: step {} skipped: loss {}, gradient norm {}; samples {} to {}",
                    run_.step, number_text(result.loss), number_text(result.grad_norm),
                    first_sample, first_sample + batch - 1));
    for (int64_t i = first_sample; i < first_sample + batch; ++i) {
        const SequencePlace place = run_.data.train->place(i);
        const PackedStore& source = run_.data.train->source(place.source);
        console_.line(fmt::format("  sample {}: sequence {} of {}, epoch {}", i, place.pack,
                                  source.store().name(), place.epoch));
    }
    if (non_finite_ >= run_.recipe.train().non_finite_limit()) {
        finish_save();
        fail(ExitCode::non_finite, "loss or gradients were not finite for ", non_finite_,
             " steps in a row, up to step ", run_.step,
             "; weights are as they were before; see log.txt for the samples");
    }
}

void Trainer::start_save() {
    if (saving_step_ == run_.step) return;
    finish_save();
    communicator_.progress(Phase::save);
    if (metrics_ && !metrics_->sync()) {
        console_.line("WARNING: metrics.jsonl could not be made durable");
    }
    SaveRequest request{.run_dir = run_.path,
                        .manifest = {},
                        .tensors = run_.state(),
                        .mesh = run_.mesh->shape(),
                        .keep = run_.recipe.checkpoint().keep()};
    Manifest& manifest = request.manifest;
    manifest.set_step(run_.step);
    manifest.set_updates(run_.optimizer->updates());
    manifest.set_next_sample(run_.next_sample);
    manifest.set_model_config(run_.model->spec().to_config().dump());
    manifest.set_model_hash(content_hash(manifest.model_config()));
    manifest.set_tokenizer_hash(run_.data.tokenizer_hash());
    for (const std::string& hash : run_.data.train_hashes()) manifest.add_data_hashes(hash);
    *manifest.mutable_order() = run_.data.train_order();
    *manifest.mutable_recipe() = run_.recipe;
    saving_step_ = run_.step;
    if (!saver_.start(std::move(request))) finish_save();
}

// A save that waits for no rank gets on: then nothing has to be copied.
void Trainer::before_update() {
    if (!saver_.under_way()) return;
    if (run_.recipe.checkpoint().snapshot() == 0) return finish_save();
    communicator_.progress(Phase::save);
    std::vector<int64_t> waits{!saver_.ready()};
    communicator_.all_reduce_max(waits);
    if (waits[0] == 0)
        advance_save();
    else
        saver_.before_change();
}

void Trainer::advance_save() {
    communicator_.progress(Phase::save);
    if (const std::optional<SaveOutcome> outcome = saver_.advance()) report(*outcome);
}

void Trainer::finish_save() {
    if (!saver_.under_way()) return;
    communicator_.progress(Phase::save);
    report(saver_.finish());
}

void Trainer::report(const SaveOutcome& outcome) {
    if (outcome.problem.empty()) {
        failed_saves_ = 0;
        console_.line(
            fmt::format("saved {} ({:.1f} MiB in {:.2f} s, of which training waited {:.2f} s)",
                        outcome.directory.string(), static_cast<double>(outcome.bytes) / (1 << 20),
                        outcome.seconds, outcome.waited));
        return;
    }
    ++failed_saves_;
    console_.line(concat("WARNING: the checkpoint of step ", saving_step_,
                         " was NOT saved: ", outcome.problem));
    if (failed_saves_ >= kFailedSavesLimit) {
        fail(ExitCode::storage, failed_saves_,
             " saves in a row failed; the last: ", outcome.problem);
    }
    saving_step_ = -1;
}

Trainer::Requests Trainer::requests() {
    const StopRequest signals = take_signals();
    std::vector<int64_t> asked{signals.save, signals.stop, !saver_.ready()};
    if (run_.directory) {
        if (run_.directory->take_request("SAVE")) asked[0] = 1;
        if (run_.directory->take_request("STOP")) asked[1] = 1;
    }
    communicator_.all_reduce_max(asked);
    return {{asked[0] != 0, asked[1] != 0}, asked[2] != 0};
}

}  // namespace fucina
