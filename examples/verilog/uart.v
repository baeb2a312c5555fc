// A UART of 8 data bits, no parity and one stop bit, with a FIFO in each direction.

// A FIFO whose read side shows the oldest entry without delay. DEPTH is a power of two.
module fifo #(
    parameter WIDTH = 8,
    parameter DEPTH_LOG2 = 4
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             push,
    input  wire [WIDTH-1:0] push_data,
    input  wire             pop,
    output wire [WIDTH-1:0] pop_data,
    output wire             empty,
    output wire             full,
    output wire [DEPTH_LOG2:0] count
);
    reg [WIDTH-1:0] mem [0:(1 << DEPTH_LOG2)-1];
    reg [DEPTH_LOG2:0] head;
    reg [DEPTH_LOG2:0] tail;

    assign count = tail - head;
    assign empty = count == 0;
    assign full = count[DEPTH_LOG2];
    assign pop_data = mem[head[DEPTH_LOG2-1:0]];

    wire do_push = push && !full;
    wire do_pop = pop && !empty;

    always @(posedge clk) begin
        if (do_push)
            mem[tail[DEPTH_LOG2-1:0]] <= push_data;
        if (rst) begin
            head <= 0;
            tail <= 0;
        end else begin
            if (do_push) tail <= tail + 1'b1;
            if (do_pop) head <= head + 1'b1;
        end
    end
endmodule

// Sends one byte, least significant bit first.
module uart_tx #(
    parameter DIVISOR = 104
) (
    input  wire       clk,
    input  wire       rst,
    input  wire       valid,
    input  wire [7:0] data,
    output wire       ready,
    output reg        txd
);
    reg [15:0] ticks;
    reg [3:0] bits_left;
    reg [8:0] shift;

    assign ready = bits_left == 0;

    always @(posedge clk) begin
        if (rst) begin
            txd <= 1'b1;
            ticks <= 0;
            bits_left <= 0;
            shift <= 9'h1ff;
        end else if (ready) begin
            if (valid) begin
                txd <= 1'b0;
                shift <= {1'b1, data};
                bits_left <= 4'd10;
                ticks <= DIVISOR - 1;
            end
        end else if (ticks != 0) begin
            ticks <= ticks - 1'b1;
        end else begin
            txd <= shift[0];
            shift <= {1'b1, shift[8:1]};
            bits_left <= bits_left - 1'b1;
            ticks <= DIVISOR - 1;
        end
    end
endmodule

// Receives bytes; samples each bit in its middle and drops a byte whose stop bit is missing.
module uart_rx #(
    parameter DIVISOR = 104
) (
    input  wire       clk,
    input  wire       rst,
    input  wire       rxd,
    output reg        valid,
    output reg  [7:0] data,
    output reg        frame_error
);
    localparam IDLE = 2'd0, START = 2'd1, DATA = 2'd2, STOP = 2'd3;

    reg [1:0] state;
    reg [15:0] ticks;
    reg [2:0] bit_index;
    reg [2:0] sync;

    wire line = sync[2];

    always @(posedge clk) begin
        sync <= {sync[1:0], rxd};
        valid <= 1'b0;
        if (rst) begin
            state <= IDLE;
            ticks <= 0;
            bit_index <= 0;
            data <= 0;
            sync <= 3'b111;
            frame_error <= 1'b0;
        end else begin
            case (state)
                IDLE:
                    if (!line) begin
                        state <= START;
                        ticks <= DIVISOR / 2;
                    end
                START:
                    if (ticks != 0) ticks <= ticks - 1'b1;
                    else if (line) state <= IDLE;
                    else begin
                        state <= DATA;
                        ticks <= DIVISOR - 1;
                        bit_index <= 0;
                    end
                DATA:
                    if (ticks != 0) ticks <= ticks - 1'b1;
                    else begin
                        data <= {line, data[7:1]};
                        ticks <= DIVISOR - 1;
                        bit_index <= bit_index + 1'b1;
                        if (bit_index == 3'd7) state <= STOP;
                    end
                STOP:
                    if (ticks != 0) ticks <= ticks - 1'b1;
                    else begin
                        valid <= line;
                        frame_error <= !line;
                        state <= IDLE;
                    end
            endcase
        end
    end
endmodule

// Both directions behind a register: writing sends a byte, reading takes the oldest received one.
module uart #(
    parameter DIVISOR = 104
) (
    input  wire       clk,
    input  wire       rst,
    input  wire       rxd,
    output wire       txd,
    input  wire       write,
    input  wire [7:0] write_data,
    input  wire       read,
    output wire [7:0] read_data,
    output wire [3:0] status
);
    wire tx_empty, tx_full, tx_ready, rx_valid, rx_empty, rx_full, frame_error;
    wire [7:0] tx_data, rx_data;

    fifo #(.WIDTH(8), .DEPTH_LOG2(4)) tx_fifo (
        .clk(clk), .rst(rst), .push(write), .push_data(write_data), .pop(tx_ready),
        .pop_data(tx_data), .empty(tx_empty), .full(tx_full), .count()
    );
    uart_tx #(.DIVISOR(DIVISOR)) transmitter (
        .clk(clk), .rst(rst), .valid(!tx_empty), .data(tx_data), .ready(tx_ready), .txd(txd)
    );
    uart_rx #(.DIVISOR(DIVISOR)) receiver (
        .clk(clk), .rst(rst), .rxd(rxd), .valid(rx_valid), .data(rx_data), .frame_error(frame_error)
    );
    fifo #(.WIDTH(8), .DEPTH_LOG2(4)) rx_fifo (
        .clk(clk), .rst(rst), .push(rx_valid), .push_data(rx_data), .pop(read),
        .pop_data(read_data), .empty(rx_empty), .full(rx_full), .count()
    );

    assign status = {frame_error, rx_full, !tx_full, !rx_empty};
endmodule
