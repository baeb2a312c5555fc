// Unsigned division of 16 bits by shifting and subtracting: one bit of the quotient per clock.
module divider (
    input  wire        clk,
    input  wire        rst,
    input  wire        start,
    input  wire [15:0] dividend,
    input  wire [15:0] divisor,
    output reg  [15:0] quotient,
    output reg  [15:0] remainder,
    output wire        busy
);
    reg [15:0] by;
    reg [4:0]  steps_left;

    wire [16:0] shifted = {remainder, quotient[15]};
    wire [16:0] difference = shifted - {1'b0, by};

    assign busy = steps_left != 0;

    always @(posedge clk) begin
        if (rst) begin
            steps_left <= 0;
        end else if (start) begin
            quotient <= dividend;
            remainder <= 0;
            by <= divisor;
            steps_left <= 5'd16;
        end else if (busy) begin
            remainder <= difference[16] ? shifted[15:0] : difference[15:0];
            quotient <= {quotient[14:0], !difference[16]};
            steps_left <= steps_left - 1'b1;
        end
    end
endmodule
