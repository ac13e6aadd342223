package bench;

import io.github.resilience4j.circuitbreaker.CircuitBreaker;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig.SlidingWindowSynchronizationStrategy;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig.SlidingWindowType;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.State;

/** The cost of resilience4j's decisions. The methods are named after the operations in the table. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
public class Policy {
  /** The faster of the two for one thread, and the default. */
  private static final SlidingWindowSynchronizationStrategy WINDOW = SlidingWindowSynchronizationStrategy.SYNCHRONIZED;

  private static final RuntimeException FAILED = new RuntimeException("the call has failed");

  /** Half of twenty in ten seconds. */
  private final CircuitBreaker closed = breaker(50);

  /** Records, but never opens: there are fewer calls than the minimum. */
  private final CircuitBreaker tolerant = tolerant();

  private final CircuitBreaker open = open();

  private static CircuitBreaker breaker(float failureRate) {
    return CircuitBreaker.of(
        "x",
        CircuitBreakerConfig.custom()
            .slidingWindow(10, 20, SlidingWindowType.TIME_BASED, WINDOW)
            .failureRateThreshold(failureRate)
            .waitDurationInOpenState(Duration.ofHours(1))
            .build());
  }

  private static CircuitBreaker tolerant() {
    return CircuitBreaker.of(
        "x",
        CircuitBreakerConfig.custom()
            .slidingWindow(10, Integer.MAX_VALUE, SlidingWindowType.TIME_BASED, WINDOW)
            .waitDurationInOpenState(Duration.ofHours(1))
            .build());
  }

  private static CircuitBreaker open() {
    CircuitBreaker breaker = breaker(50);
    breaker.transitionToOpenState();
    return breaker;
  }

  @Benchmark
  public boolean pass() {
    return closed.tryAcquirePermission();
  }

  @Benchmark
  public boolean refuse() {
    return open.tryAcquirePermission();
  }

  @Benchmark
  public void success() {
    closed.onSuccess(1, TimeUnit.MILLISECONDS);
  }

  @Benchmark
  public void failure() {
    tolerant.onError(1, TimeUnit.MILLISECONDS, FAILED);
  }

  /** Admits and records, and reads the clock for the call's duration like its decorators. */
  @Benchmark
  public boolean passSuccess() {
    boolean permitted = closed.tryAcquirePermission();
    if (permitted) {
      long begin = closed.getCurrentTimestamp();
      closed.onSuccess(closed.getCurrentTimestamp() - begin, closed.getTimestampUnit());
    }
    return permitted;
  }

  @Benchmark
  public boolean passFailure() {
    boolean permitted = tolerant.tryAcquirePermission();
    if (permitted) {
      long begin = tolerant.getCurrentTimestamp();
      tolerant.onError(tolerant.getCurrentTimestamp() - begin, tolerant.getTimestampUnit(), FAILED);
    }
    return permitted;
  }
}
