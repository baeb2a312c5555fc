// SPI master, mode 0, most significant bit first: eight bits per transfer.
module spi_master #(
    parameter HALF_PERIOD = 4
) (
    input  wire       clk,
    input  wire       rst,
    input  wire       start,
    input  wire [7:0] data_out,
    output reg  [7:0] data_in,
    output wire       busy,
    output reg        sclk,
    output wire       mosi,
    input  wire       miso
);
    reg [7:0] shift;
    reg [4:0] edges_left;
    reg [7:0] ticks;

    assign busy = edges_left != 0;
    assign mosi = shift[7];

    always @(posedge clk) begin
        if (rst) begin
            sclk <= 1'b0;
            shift <= 0;
            data_in <= 0;
            edges_left <= 0;
            ticks <= 0;
        end else if (!busy) begin
            sclk <= 1'b0;
            if (start) begin
                shift <= data_out;
                edges_left <= 5'd16;
                ticks <= HALF_PERIOD - 1;
            end
        end else if (ticks != 0) begin
            ticks <= ticks - 1'b1;
        end else begin
            ticks <= HALF_PERIOD - 1;
            edges_left <= edges_left - 1'b1;
            sclk <= !sclk;
            if (!sclk) data_in <= {data_in[6:0], miso};
            else shift <= {shift[6:0], 1'b0};
        end
    end
endmodule
